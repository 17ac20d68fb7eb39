"""Object metadata, Events, and the kinds without a typed spec."""

from typing import Any

import msgspec

Quantity = str | int | float


class ApiStruct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of all typed parts of a body."""


class OwnerReference(ApiStruct):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiStruct):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: list[OwnerReference] = msgspec.field(default_factory=list)
    finalizers: list[str] = msgspec.field(default_factory=list)


class UntypedObject(ApiStruct):
    """A kind without a typed spec."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class Event(ApiStruct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    involved_object: dict[str, Any] = msgspec.field(default_factory=dict)
    reason: str = ""
    message: str = ""
    source: dict[str, Any] = msgspec.field(default_factory=dict)
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    count: int = 0
    type: str = ""
    event_time: str | None = None
    action: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""
