"""What a create and a delete make of a record. Pure; the store takes the step."""

from collections.abc import Callable

from shared.addresses import addressed
from shared.errors import LaterLife
from shared.queue import Job, Work
from shared.sandbox import Sandbox, Spec, Status, accepted, another_attempt, next_life, terminating
from shared.settings import Settings
from shared.store import Change, Move


def wanted(sandbox_id: str, spec: Spec, settings: Settings, *, now: float) -> Move:
    """A first life, the life there is, or the next one when the last is over."""

    until = now + settings.provision_timeout_seconds

    def move(current: Sandbox | None) -> Change | None:
        if current is None:
            first = accepted(sandbox_id, spec, cluster=settings.cluster_name, now=now, until=until)
            record = addressed(first, settings)
            return Change(record, (Job.of(Work.PROVISION, record),))
        if current.wants_pod:
            return None
        record = addressed(next_life(current, spec, now=now, until=until), settings)
        # A life that is being deleted has its job already; one that ended by itself may have left things behind.
        leftovers = () if current.status is Status.TERMINATING else (Job.of(Work.TERMINATE, another_attempt(current)),)
        return Change(record, (*leftovers, Job.of(Work.PROVISION, record)))

    return move


def unwanted(is_meant: Callable[[Sandbox], bool]) -> Move:
    """Being deleted. Raises LaterLife, and changes nothing, when the present life is not the one that is meant."""

    def move(current: Sandbox | None) -> Change | None:
        if current is None:
            return None
        if not is_meant(current):
            raise LaterLife(
                f"Sandbox {current.id} is in its life {current.generation} by now; nothing was deleted.",
                generation=current.generation,
            )
        if current.status is Status.TERMINATING:
            return None
        record = another_attempt(terminating(current))
        return Change(record, (Job.of(Work.TERMINATE, record),))

    return move
