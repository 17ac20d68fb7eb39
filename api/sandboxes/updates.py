"""What a create and a delete make of a record. Pure; the store takes the step."""

from collections.abc import Callable

from shared.errors import LaterLife
from shared.queue.job import Job, Work
from shared.sandbox.expiry import terms
from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import accepted, another_attempt, next_life, terminating, used
from shared.sandbox.urls import addressed
from shared.settings import Settings
from shared.store.limits import limits
from shared.store.update import Change, Move


def wanted(sandbox_id: str, spec: Spec, settings: Settings, *, now: float) -> Move:
    """A first life, the life there is, or the next one when the last is over. What is there already needs no room."""

    until = now + settings.provision_timeout_seconds
    kept = terms(spec, settings)
    room = limits(settings, spec.user_id)

    def move(current: Sandbox | None) -> Change | None:
        if current is None:
            first = accepted(sandbox_id, spec, cluster=settings.cluster_name, now=now, until=until, terms=kept)
            record = addressed(first, settings)
            return Change(record, (Job.of(Work.PROVISION, record),), room)
        if current.wants_pod:
            return None
        record = addressed(next_life(current, spec, now=now, until=until, terms=kept), settings)
        # A life that is being deleted has its job already; one that ended by itself may have left things behind.
        leftovers = () if current.status is Status.TERMINATING else (Job.of(Work.TERMINATE, another_attempt(current)),)
        return Change(record, (*leftovers, Job.of(Work.PROVISION, record)), room)

    return move


TOUCH_SECONDS = 30.0
"""A use is written down at most so often: what it costs, and how early an idle sandbox may end by it."""


def is_worth_a_touch(record: Sandbox, now: float) -> bool:
    """Of a short idle timeout, a quarter: a sandbox that is used more often than that never ends as idle."""
    every = min(TOUCH_SECONDS, record.idle_timeout / 4) if record.idle_timeout else TOUCH_SECONDS
    return record.wants_pod and now - record.last_used_at >= every


def touched(life: str, now: float) -> Move:
    """This life is in use."""

    def move(current: Sandbox | None) -> Change | None:
        if current is None or current.life != life or not is_worth_a_touch(current, now):
            return None
        return Change(used(current, now), is_touch=True)

    return move


def kept_alive(now: float, seconds: int | None) -> Move:
    """In use now, and for so many seconds; what is over stays so."""

    def move(current: Sandbox | None) -> Change | None:
        if current is None or not current.wants_pod:
            return None
        kept = used(current, now, keep_seconds=seconds or 0)
        asked = seconds or 0
        is_later = current.kept_until < now + asked - min(TOUCH_SECONDS, asked / 4) and current.expiry != kept.expiry
        return Change(kept, is_touch=True) if is_later or is_worth_a_touch(current, now) else None

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
