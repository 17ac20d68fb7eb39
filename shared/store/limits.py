"""How many sandboxes there may be at once. Pure; `shared.store.store` counts in the step that accepts one more."""

from typing import NamedTuple

from shared.sandbox.record import Status
from shared.settings import ServiceType, Settings
from shared.store import indexes

_LIVE = tuple(indexes.STATUS + status for status in (Status.PENDING, Status.RUNNING, Status.UNKNOWN))


class Limit(NamedTuple):
    """No more than `most` entries in all of these sorted sets together. `name` is the setting that says so."""

    name: str
    maximum: int
    indexes: tuple[str, ...]


def limits(settings: Settings, user_id: str) -> tuple[Limit, ...]:
    """Those that hold for one more sandbox of this user. What is going has no place any more, but its port.

    They count records. An id between two lives is one, though for a moment it may hold both lives' ports.
    """
    found = []
    if settings.max_sandboxes:
        found.append(Limit("MAX_SANDBOXES", settings.max_sandboxes, _LIVE))
    if settings.max_sandboxes_per_user:
        found.append(Limit("MAX_SANDBOXES_PER_USER", settings.max_sandboxes_per_user, (indexes.LIVE + user_id,)))
    if settings.sandbox_service_type is ServiceType.NODE_PORT and settings.node_port_capacity:
        taken = (*_LIVE, indexes.STATUS + Status.TERMINATING)
        found.append(Limit("NODE_PORT_CAPACITY", settings.node_port_capacity, taken))
    return tuple(found)
