"""Records and settings in short form."""

from typing import Any

import msgspec
from msgspec.structs import replace

from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import new_record
from shared.settings import Settings, read_settings

NOW = 1_750_000_000.0
CLUSTER = "default"


def settings_of(**environment: str) -> Settings:
    return read_settings(environment)


def spec_of(**fields: Any) -> Spec:
    """Return a spec; `fields` are those of `POST /api/sandboxes`."""
    return msgspec.convert(fields, Spec)


def record_of(sandbox_id: str = "0123456789abcdef", *, now: float = NOW, generation: int = 1, **fields: Any) -> Sandbox:
    """Return a new record with a fixed token. `fields` replace fields of the record; `spec` may be a mapping."""
    spec = spec_of(**fields.pop("spec", {}))
    record = new_record(sandbox_id, spec, cluster=CLUSTER, now=now, generation=generation)
    return replace(record, **{"token": "0a1b2c3d", **fields})


def of_status(status: Status, **fields: Any) -> Sandbox:
    return record_of(status=status, **fields)
