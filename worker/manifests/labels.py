"""How our objects say whose they are: labels to find and select them by, annotations to rebuild a record from."""

from collections.abc import Mapping

import msgspec

from shared.sandbox import Sandbox

APP = "deer-flow-sandbox"
SELECTOR = f"app={APP}"
"""Every Pod and Service of ours, and those of DeerFlow's earlier provisioner."""
SANDBOX_ID = "sandbox-id"
LIFE = "provisioner.deer-flow/life"
RECORD = "provisioner.deer-flow/record"


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
    return {SANDBOX_ID: record.id, LIFE: record.life}


def is_of(labels: Mapping[str, str], sandbox_id: str, life: str) -> bool:
    """Whether an object with these labels was made for this very life."""
    return labels.get(SANDBOX_ID) == sandbox_id and labels.get(LIFE) == life


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only the record knows, kept on the Pod for the day Redis has lost it."""

    spec: dict[str, object]
    created_at: float


def annotations(record: Sandbox) -> dict[str, str]:
    origin = Origin(spec=msgspec.to_builtins(record.spec), created_at=record.created_at)
    return {RECORD: msgspec.json.encode(origin).decode()}
