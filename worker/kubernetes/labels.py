"""How our objects say whose they are: labels to find and select them by, annotations to rebuild a record from."""

import msgspec

from shared.sandbox.record import Sandbox, Spec
from worker.kubernetes.objects import ObjectMeta

APP = "deer-flow-sandbox"
SELECTOR = f"app={APP}"
"""Every Pod and Service of ours, and those of DeerFlow's earlier provisioner."""
SANDBOX_ID = "sandbox-id"
INCARNATION = "provisioner.deer-flow/incarnation"
RECORD = "provisioner.deer-flow/record"
_LEGACY_PREFIX = "1-older-"
"""Lives whose objects bear no label of it begin so; the first, by its number, for the Pod has a first life's name."""


def labels(record: Sandbox) -> dict[str, str]:
    """DeerFlow's four, and the life: the Service selects by it, so that it never routes to a dying Pod."""
    return {
        "app": APP,
        SANDBOX_ID: record.id,
        "app.kubernetes.io/name": "deer-flow",
        "app.kubernetes.io/component": "sandbox",
        INCARNATION: record.incarnation,
    }


def selector(record: Sandbox) -> dict[str, str]:
    """Of the life's own Pod; one of the older provisioner has no label for that."""
    of_all_lives = {SANDBOX_ID: record.id}
    return (
        of_all_lives
        if record.incarnation.startswith(_LEGACY_PREFIX)
        else {**of_all_lives, INCARNATION: record.incarnation}
    )


def incarnation_of(pod: ObjectMeta) -> str:
    """The life that a Pod was made for. One of the older provisioner has no label for it: its uid stands in."""
    return pod.labels.get(INCARNATION) or legacy_incarnation(pod)


def is_pod_of(pod: ObjectMeta, sandbox_id: str, incarnation: str) -> bool:
    """Whether a Pod was made for this very life."""
    return pod.labels.get(SANDBOX_ID) == sandbox_id and incarnation_of(pod) == incarnation


def is_service_of(service: ObjectMeta, sandbox_id: str, incarnation: str) -> bool:
    """Whether a Service was made for this life. The older provisioner's, of which an id has one, does not say."""
    if service.labels.get(SANDBOX_ID) != sandbox_id:
        return False
    return service.labels.get(INCARNATION) == incarnation or (
        is_legacy(service) and incarnation.startswith(_LEGACY_PREFIX)
    )


def is_owned_by(service: ObjectMeta, pod: ObjectMeta) -> bool:
    """Whether a Service is this very Pod's. The older provisioner's has no owner, as its Pod has no life."""
    if service.owner_references:
        return any(owner.uid == pod.uid for owner in service.owner_references)
    return is_legacy(service) and is_legacy(pod) and service.labels.get(SANDBOX_ID) == pod.labels.get(SANDBOX_ID)


def is_legacy(metadata: ObjectMeta) -> bool:
    """Made by DeerFlow's older provisioner, which knew no lives."""
    return INCARNATION not in metadata.labels


def legacy_incarnation(metadata: ObjectMeta) -> str:
    """Of an object that the older provisioner made: no life of ours looks like it."""
    return f"{_LEGACY_PREFIX}{metadata.uid[:8]}"


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only the record knows, kept on the Pod for the day Redis has lost it."""

    spec: Spec
    created_at: float


def origin(pod: ObjectMeta) -> Origin | None:
    """None: it has none, or none that can be read."""
    try:
        return msgspec.json.decode(pod.annotations.get(RECORD, ""), type=Origin)
    except msgspec.DecodeError:
        return None


def annotations(record: Sandbox) -> dict[str, str]:
    return {RECORD: msgspec.json.encode(Origin(record.spec, record.created_at)).decode()}
