"""Intended differences from the Pods and Services of DeerFlow's own provisioner, with reasons.

The list is complete: `test_deerflow.py` fails for any other difference, and for an entry that applies nowhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shared.sandbox.record import Sandbox

ABSENT = "absent"
POD_UID = "5b1f0c1e-5f0e-4f0e-8f0e-000000000001"


class Difference(NamedTuple):
    """A difference in `pod` or `service` at `path`: DeerFlow's value, the worker's value for a record, the reason."""

    object: str
    path: str
    deerflow: Any
    worker: Callable[[Sandbox], Any]
    reason: str


def always(value: Any) -> Callable[[Sandbox], Any]:
    return lambda _: value


def _origin(record: Sandbox) -> dict[str, str]:
    origin = {"spec": msgspec.to_builtins(record.spec), "created_at": record.created_at}
    return {"provisioner.deer-flow/record": msgspec.json.encode(origin).decode()}


def _owner(record: Sandbox) -> list[dict[str, Any]]:
    name = f"sandbox-{record.id}"
    flags = {"controller": False, "blockOwnerDeletion": False}
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": POD_UID, **flags}]


_HEALTH = {"path": "/v1/sandbox", "port": 8080}
_STARTUP = {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 300}

DIFFERENCES = [
    Difference(
        "pod",
        "apiVersion",
        ABSENT,
        always("v1"),
        "DeerFlow's client library leaves the kind to the URL of the request.",
    ),
    Difference("pod", "kind", ABSENT, always("Pod"), "See the Pod's apiVersion."),
    Difference("service", "apiVersion", ABSENT, always("v1"), "See the Pod's apiVersion."),
    Difference("service", "kind", ABSENT, always("Service"), "See the Pod's apiVersion."),
    Difference(
        "pod",
        "metadata.labels.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "An id can return while its old Pod terminates. The label distinguishes the incarnations.",
    ),
    Difference(
        "service",
        "metadata.labels.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "A Service belongs to one incarnation.",
    ),
    Difference(
        "service",
        "spec.selector.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "The Service never routes to a terminating Pod of an earlier incarnation.",
    ),
    Difference(
        "pod",
        "metadata.annotations",
        ABSENT,
        _origin,
        "A record that Redis lost is rebuilt from the annotation.",
    ),
    Difference(
        "service",
        "metadata.ownerReferences",
        ABSENT,
        _owner,
        "Kubernetes deletes the Service together with its Pod.",
    ),
    Difference(
        "service",
        "spec.publishNotReadyAddresses",
        ABSENT,
        always(True),
        "The URL works as soon as the sandbox listens, before it is ready.",
    ),
    Difference(
        "pod",
        "spec.automountServiceAccountToken",
        ABSENT,
        always(False),
        "An agent's code gets no credentials of the cluster.",
    ),
    Difference(
        "pod",
        "spec.activeDeadlineSeconds",
        ABSENT,
        always(7 * 86400 + 3600),
        "Kubernetes ends a Pod an hour after its lifetime, even if all workers are dead.",
    ),
    Difference(
        "pod",
        "spec.enableServiceLinks",
        ABSENT,
        always(False),
        "The environment of a sandbox does not contain the addresses of other sandboxes.",
    ),
    Difference(
        "pod",
        "spec.containers[0].startupProbe",
        ABSENT,
        always({"httpGet": _HEALTH, **_STARTUP}),
        "Readiness is probed after one second instead of five, for at most the 300 s of provisioning.",
    ),
    Difference(
        "pod",
        "spec.containers[0].startupProbe",
        ABSENT,
        always({"httpGet": {**_HEALTH, "port": 8090}, **_STARTUP}),
        "The same with another configured port.",
    ),
    Difference(
        "pod",
        "spec.containers[0].readinessProbe.initialDelaySeconds",
        5,
        always(ABSENT),
        "The probe waits for the startup probe instead of a fixed time.",
    ),
    Difference(
        "pod",
        "spec.containers[0].livenessProbe.initialDelaySeconds",
        10,
        always(ABSENT),
        "The probe waits for the startup probe instead of a fixed time.",
    ),
]
