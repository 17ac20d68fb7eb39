"""The limits on the number of sandboxes. Pure; the store counts in the step that accepts one more."""

from typing import NamedTuple

from shared.sandbox.record import Status
from shared.settings import ServiceType, Settings
from shared.store import keys

_ACTIVE = tuple(keys.STATUS + status for status in (Status.PENDING, Status.RUNNING, Status.UNKNOWN))


class Limit(NamedTuple):
    """At most `maximum` members in all `indexes` together. `name` is the setting that says how many."""

    name: str
    maximum: int
    indexes: tuple[str, ...]


def limits(settings: Settings, user_id: str) -> tuple[Limit, ...]:
    """Return the limits for one more sandbox of this user.

    A Terminating sandbox counts for its node port only. The limits count records: an id that is created again while
    its old Pod terminates counts once, though it holds two ports for a moment.
    """
    applicable = []
    if settings.max_sandboxes:
        applicable.append(Limit("MAX_SANDBOXES", settings.max_sandboxes, _ACTIVE))
    if settings.max_sandboxes_per_user:
        applicable.append(Limit("MAX_SANDBOXES_PER_USER", settings.max_sandboxes_per_user, (keys.LIVE + user_id,)))
    if settings.sandbox_service_type is ServiceType.NODE_PORT and settings.node_port_capacity:
        with_port = (*_ACTIVE, keys.STATUS + Status.TERMINATING)
        applicable.append(Limit("NODE_PORT_CAPACITY", settings.node_port_capacity, with_port))
    return tuple(applicable)
