"""Where our Pods and Services are meant to differ from those of DeerFlow's own provisioner, and why.

This is the whole list: `test_deerflow.py` fails for any other difference, and for an entry that applies nowhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shared.sandbox.record import Sandbox

ABSENT = "absent"
POD_UID = "5b1f0c1e-5f0e-4f0e-8f0e-000000000001"


class Difference(NamedTuple):
    """In `pod` or `service`, at `path`: what DeerFlow has there, what we have for a record, and the reason."""

    object: str
    path: str
    theirs: Any
    ours: Callable[[Sandbox], Any]
    why: str


def always(value: Any) -> Callable[[Sandbox], Any]:
    return lambda _: value


def _origin(record: Sandbox) -> dict[str, str]:
    origin = {"spec": msgspec.to_builtins(record.spec), "created_at": record.created_at}
    return {"provisioner.deer-flow/record": msgspec.json.encode(origin).decode()}


def _owner(record: Sandbox) -> list[dict[str, Any]]:
    name = f"sandbox-{record.id}"
    theirs_to_delete = {"controller": False, "blockOwnerDeletion": False}
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": POD_UID, **theirs_to_delete}]


_HEALTH = {"path": "/v1/sandbox", "port": 8080}
_STARTUP = {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 300}

DIFFERENCES = [
    Difference(
        "pod", "apiVersion", ABSENT, always("v1"), "We say what their client library leaves to the address of the call."
    ),
    Difference("pod", "kind", ABSENT, always("Pod"), "As apiVersion."),
    Difference("service", "apiVersion", ABSENT, always("v1"), "As the Pod's."),
    Difference("service", "kind", ABSENT, always("Service"), "As the Pod's."),
    Difference(
        "pod",
        "metadata.labels.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "An id comes back while its old Pod terminates: the label tells its lives apart.",
    ),
    Difference(
        "service",
        "metadata.labels.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "As the Pod's: a Service belongs to one life.",
    ),
    Difference(
        "service",
        "spec.selector.provisioner.deer-flow/incarnation",
        ABSENT,
        lambda record: record.incarnation,
        "The Service selects the life it belongs to, so that it never routes to a dying Pod.",
    ),
    Difference(
        "pod",
        "metadata.annotations",
        ABSENT,
        _origin,
        "What was asked for, kept where it survives Redis: a lost record is rebuilt from it.",
    ),
    Difference(
        "service",
        "metadata.ownerReferences",
        ABSENT,
        _owner,
        "The Service goes when its Pod goes, whoever deletes it: no Service outlives its sandbox.",
    ),
    Difference(
        "service",
        "spec.publishNotReadyAddresses",
        ABSENT,
        always(True),
        "The URL works as soon as the sandbox listens, not only once it is ready.",
    ),
    Difference(
        "pod",
        "spec.automountServiceAccountToken",
        ABSENT,
        always(False),
        "Code that an agent runs gets no credentials of the cluster.",
    ),
    Difference(
        "pod",
        "spec.activeDeadlineSeconds",
        ABSENT,
        always(7 * 86400 + 3600),
        "A Pod that has outlived its lifetime by an hour is ended by Kubernetes, though we be dead.",
    ),
    Difference(
        "pod",
        "spec.enableServiceLinks",
        ABSENT,
        always(False),
        "Other sandboxes' addresses are not injected into this one's environment.",
    ),
    Difference(
        "pod",
        "spec.containers[0].startupProbe",
        ABSENT,
        always({"httpGet": _HEALTH, **_STARTUP}),
        "Readiness is first looked at after a second, not after five; as long as provisioning may take, 300 s.",
    ),
    Difference(
        "pod",
        "spec.containers[0].startupProbe",
        ABSENT,
        always({"httpGet": {**_HEALTH, "port": 8090}, **_STARTUP}),
        "The same, where another port is configured.",
    ),
    Difference(
        "pod",
        "spec.containers[0].readinessProbe.initialDelaySeconds",
        5,
        always(ABSENT),
        "It waits for the startup probe instead of a guess.",
    ),
    Difference(
        "pod",
        "spec.containers[0].livenessProbe.initialDelaySeconds",
        10,
        always(ABSENT),
        "It waits for the startup probe instead of a guess.",
    ),
]
