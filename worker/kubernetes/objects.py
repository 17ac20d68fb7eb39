"""What we read of Kubernetes' objects: the fields we need, decoded by msgspec, all else skipped.

Field names are Kubernetes' own in snake case. Its times are whole seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

STUCK_SECONDS = 60.0


class _Seen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Owner(_Seen, frozen=True):
    uid: str


class Metadata(_Seen, frozen=True):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: tuple[Owner, ...] = ()


class Condition(_Seen, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Waiting(_Seen, frozen=True):
    reason: str = ""
    message: str = ""


class Running(_Seen, frozen=True):
    pass


class Terminated(_Seen, frozen=True):
    exit_code: int = 0
    reason: str = ""


class ContainerState(_Seen, frozen=True):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Seen, frozen=True):
    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    restart_count: int = 0


class PodSpec(_Seen, frozen=True):
    node_name: str = ""


class PodStatus(_Seen, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Seen, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_dying(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def is_stuck(self, now: float) -> bool:
        """It should have been gone for long: its node is lost, or a finalizer holds it."""
        due = self.metadata.deletion_timestamp  # which has its grace in it
        return due is not None and now > due.timestamp() + STUCK_SECONDS

    def has(self, condition: str) -> bool:
        return self.since(condition) is not None

    def since(self, condition: str) -> float | None:
        """When this condition became true, seconds since the epoch (0: it does not say); None: it is not."""
        for held in self.status.conditions:
            if held.type == condition and held.status == "True":
                return held.last_transition_time.timestamp() if held.last_transition_time else 0.0
        return None


class ServicePort(_Seen, frozen=True):
    node_port: int | None = None


class ServiceSpec(_Seen, frozen=True):
    ports: tuple[ServicePort, ...] = ()


class Service(_Seen, frozen=True):
    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()

    @property
    def node_port(self) -> int | None:
        return self.spec.ports[0].node_port if self.spec.ports else None


class Involved(_Seen, frozen=True):
    name: str = ""
    uid: str = ""


class Source(_Seen, frozen=True):
    component: str = ""


class Series(_Seen, frozen=True):
    """How newer components count what happens again."""

    count: int = 1


class Happening(_Seen, frozen=True):
    """Kubernetes' Event. `count` is how often it happened; it is written anew each time."""

    metadata: Metadata
    involved_object: Involved = Involved()
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


Kind = TypeVar("Kind", Pod, Service, Happening)


class ListMetadata(_Seen, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(_Seen, Generic[Kind], frozen=True):
    metadata: ListMetadata
    items: tuple[Kind, ...]


class Failure(_Seen, frozen=True):
    """Kubernetes' `Status`, which is what its errors are."""

    reason: str = ""
    message: str = ""
    code: int = 0


class Frame(_Seen, frozen=True):
    """One line of a watch: the object's kind depends on the type."""

    type: str
    object: msgspec.Raw
