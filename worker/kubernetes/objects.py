"""Kubernetes objects that the worker reads: structs with the fields in use. Msgspec skips all other fields.

Field names are those of Kubernetes in snake case. Kubernetes' times are whole seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

STUCK_SECONDS = 60.0
"""Time after a Pod's deletion timestamp after which the deletion counts as stuck. A healthy kubelet needs seconds."""


Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class OwnerReference(_Object, frozen=True):
    uid: str


class ObjectMeta(_Object, frozen=True):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(_Object, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: Time | None = None


class ContainerStateWaiting(_Object, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(_Object, frozen=True):
    pass


class ContainerStateTerminated(_Object, frozen=True):
    exit_code: int = 0
    reason: str = ""


class ContainerState(_Object, frozen=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(_Object, frozen=True):
    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    restart_count: int = 0


class PodSpec(_Object, frozen=True):
    node_name: str = ""


class PodStatus(_Object, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Object, frozen=True):
    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def is_stuck(self, now: float) -> bool:
        """Return True if the deletion is overdue: the node is lost, or a finalizer blocks the deletion."""
        due = self.metadata.deletion_timestamp  # includes the grace period
        return due is not None and now > due.timestamp() + STUCK_SECONDS

    def is_condition_true(self, type_: str) -> bool:
        return self.condition_since(type_) is not None

    def condition_since(self, type_: str) -> float | None:
        """Return since when a condition is true, in seconds since the epoch.

        The result is None if the condition is not true, and 0 if the condition has no time.
        """
        for condition in self.status.conditions:
            if condition.type == type_ and condition.status == "True":
                return condition.last_transition_time.timestamp() if condition.last_transition_time else 0.0
        return None


class ServicePort(_Object, frozen=True):
    node_port: int | None = None


class ServiceSpec(_Object, frozen=True):
    ports: tuple[ServicePort, ...] = ()


class Service(_Object, frozen=True):
    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()

    @property
    def node_port(self) -> int | None:
        return self.spec.ports[0].node_port if self.spec.ports else None


class ObjectReference(_Object, frozen=True):
    name: str = ""
    uid: str = ""


class EventSource(_Object, frozen=True):
    component: str = ""


class EventSeries(_Object, frozen=True):
    """Counter of a repeated event, as newer components write it."""

    count: int = 1


class Event(_Object, frozen=True):
    """Core/v1 Event. Kubernetes updates the object at each repetition, and counts in `count` or `series`."""

    metadata: ObjectMeta
    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    series: EventSeries | None = None
    source: EventSource = EventSource()
    reporting_component: str = ""

    @property
    def times(self) -> int:
        return self.count or (self.series.count if self.series else 1)

    @property
    def component(self) -> str:
        """The name of the component that reported the event."""
        return self.reporting_component or self.source.component or "kubernetes"


Kind = TypeVar("Kind", Pod, Service, Event)


class ListMeta(_Object, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ListPage(_Object, frozen=True):
    """Page of a list. Each object is decoded on its own."""

    metadata: ListMeta
    items: tuple[msgspec.Raw, ...]


class ApiStatus(_Object, frozen=True):
    """Kubernetes' `Status`, the body of its errors."""

    reason: str = ""
    message: str = ""
    code: int = 0


class WatchFrame(_Object, frozen=True):
    """Line of a watch. The kind of `object` depends on `type`, so decoding waits."""

    type: str
    object: msgspec.Raw
