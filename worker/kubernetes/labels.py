"""How our objects say whose they are: labels to find and select them by, annotations to rebuild a record from."""

import msgspec

from shared.sandbox.record import Sandbox, Spec
from worker.kubernetes.objects import Metadata

APP = "deer-flow-sandbox"
SELECTOR = f"app={APP}"
"""Every Pod and Service of ours, and those of DeerFlow's earlier provisioner."""
SANDBOX_ID = "sandbox-id"
LIFE = "provisioner.deer-flow/life"
RECORD = "provisioner.deer-flow/record"
_OLDER = "1-older-"
"""Lives whose objects bear no label of it begin so; the first, by its number, for the Pod has a first life's name."""


def labels(record: Sandbox) -> dict[str, str]:
    """DeerFlow's four, and the life: the Service selects by it, so that it never routes to a dying Pod."""
    return {
        "app": APP,
        SANDBOX_ID: record.id,
        "app.kubernetes.io/name": "deer-flow",
        "app.kubernetes.io/component": "sandbox",
        LIFE: record.life,
    }


def selector(record: Sandbox) -> dict[str, str]:
    """Of the life's own Pod; one of the older provisioner has no label for that."""
    of_all_lives = {SANDBOX_ID: record.id}
    return of_all_lives if record.life.startswith(_OLDER) else {**of_all_lives, LIFE: record.life}


def life_of(pod: Metadata) -> str:
    """The life that a Pod was made for. One of the older provisioner has no label for it: its uid stands in."""
    return pod.labels.get(LIFE) or older_life(pod)


def is_of(pod: Metadata, sandbox_id: str, life: str) -> bool:
    """Whether a Pod was made for this very life."""
    return pod.labels.get(SANDBOX_ID) == sandbox_id and life_of(pod) == life


def serves(service: Metadata, sandbox_id: str, life: str) -> bool:
    """Whether a Service was made for this life. The older provisioner's, of which an id has one, does not say."""
    if service.labels.get(SANDBOX_ID) != sandbox_id:
        return False
    return service.labels.get(LIFE) == life or (is_older(service) and life.startswith(_OLDER))


def is_owned(service: Metadata, pod: Metadata) -> bool:
    """Whether a Service is this very Pod's. The older provisioner's has no owner, as its Pod has no life."""
    if service.owner_references:
        return any(owner.uid == pod.uid for owner in service.owner_references)
    return is_older(service) and is_older(pod) and service.labels.get(SANDBOX_ID) == pod.labels.get(SANDBOX_ID)


def is_older(metadata: Metadata) -> bool:
    """Made by DeerFlow's older provisioner, which knew no lives."""
    return LIFE not in metadata.labels


def older_life(metadata: Metadata) -> str:
    """Of an object that the older provisioner made: no life of ours looks like it."""
    return f"{_OLDER}{metadata.uid[:8]}"


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only the record knows, kept on the Pod for the day Redis has lost it."""

    spec: Spec
    created_at: float


def origin(pod: Metadata) -> Origin | None:
    """None: it has none, or none that can be read."""
    try:
        return msgspec.json.decode(pod.annotations.get(RECORD, ""), type=Origin)
    except msgspec.DecodeError:
        return None


def annotations(record: Sandbox) -> dict[str, str]:
    return {RECORD: msgspec.json.encode(Origin(record.spec, record.created_at)).decode()}
