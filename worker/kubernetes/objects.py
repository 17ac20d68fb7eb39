"""What we read of Kubernetes' objects: the fields we need, decoded by msgspec, all else skipped.

Field names are Kubernetes' own in snake case. Its times are whole seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

STUCK_SECONDS = 60.0


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class OwnerReference(_Object, frozen=True):
    uid: str


class ObjectMeta(_Object, frozen=True):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(_Object, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class RecordNotifier(_Object, frozen=True):
    reason: str = ""
    message: str = ""


class Running(_Object, frozen=True):
    pass


class Terminated(_Object, frozen=True):
    exit_code: int = 0
    reason: str = ""


class ContainerState(_Object, frozen=True):
    waiting: RecordNotifier | None = None
    running: Running | None = None
    terminated: Terminated | None = None


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
        """It should have been gone for long: its node is lost, or a finalizer holds it."""
        due = self.metadata.deletion_timestamp  # which has its grace in it
        return due is not None and now > due.timestamp() + STUCK_SECONDS

    def is_condition_true(self, condition: str) -> bool:
        return self.condition_since(condition) is not None

    def condition_since(self, condition: str) -> float | None:
        """When this condition became true, seconds since the epoch (0: it does not say); None: it is not."""
        for held in self.status.conditions:
            if held.type == condition and held.status == "True":
                return held.last_transition_time.timestamp() if held.last_transition_time else 0.0
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


class Source(_Object, frozen=True):
    component: str = ""


class Series(_Object, frozen=True):
    """How newer components count what happens again."""

    count: int = 1


class Event(_Object, frozen=True):
    """Kubernetes' Event. `count` is how often it happened; it is written anew each time."""

    metadata: ObjectMeta
    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    series: Series | None = None
    source: Source = Source()
    reporting_component: str = ""

    @property
    def times(self) -> int:
        return self.count or (self.series.count if self.series else 1)

    @property
    def component(self) -> str:
        """Who says so."""
        return self.reporting_component or self.source.component or "kubernetes"


Kind = TypeVar("Kind", Pod, Service, Event)


class ListMeta(_Object, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ListPage(_Object, Generic[Kind], frozen=True):
    metadata: ListMeta
    items: tuple[Kind, ...]


class ApiStatus(_Object, frozen=True):
    """Kubernetes' `Status`, which is what its errors are."""

    reason: str = ""
    message: str = ""
    code: int = 0


class WatchFrame(_Object, frozen=True):
    """One line of a watch: the object's kind depends on the type."""

    type: str
    object: msgspec.Raw
