"""What a create and a delete make of a record. Pure; the store takes the step."""

from collections.abc import Callable

from shared.errors import IncarnationMismatch
from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import expiry_policy
from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import new_incarnation, new_record, next_attempt, terminating, touched
from shared.sandbox.urls import with_url
from shared.settings import Settings
from shared.store.limits import limits
from shared.store.update import Mutate, Update


def create_or_keep(sandbox_id: str, spec: Spec, settings: Settings, *, now: float) -> Mutate:
    """A first life, the life there is, or the next one when the last is over. What is there already needs no room."""

    deadline = now + settings.provision_timeout_seconds
    kept = expiry_policy(spec, settings)
    room = limits(settings, spec.user_id)

    def mutate(current: Sandbox | None) -> Update | None:
        if current is None:
            first = new_record(sandbox_id, spec, cluster=settings.cluster_name, now=now, deadline=deadline, terms=kept)
            record = with_url(first, settings)
            return Update(record, (Job.of(JobKind.PROVISION, record),), room)
        if current.is_active:
            return None
        record = with_url(new_incarnation(current, spec, now=now, deadline=deadline, terms=kept), settings)
        # A life that is being deleted has its job already; one that ended by itself may have left things behind.
        leftovers = () if current.status is Status.TERMINATING else (Job.of(JobKind.TERMINATE, next_attempt(current)),)
        return Update(record, (*leftovers, Job.of(JobKind.PROVISION, record)), room)

    return mutate


TOUCH_INTERVAL_SECONDS = 30.0
"""A use is written down at most so often: what it costs, and how early an idle sandbox may end by it."""


def needs_touch(record: Sandbox, now: float) -> bool:
    """Of a short idle timeout, a quarter: a sandbox that is used more often than that never ends as idle."""
    every = min(TOUCH_INTERVAL_SECONDS, record.idle_timeout / 4) if record.idle_timeout else TOUCH_INTERVAL_SECONDS
    return record.is_active and now - record.last_used_at >= every


def record_use(incarnation: str, now: float) -> Mutate:
    """This life is in use."""

    def mutate(current: Sandbox | None) -> Update | None:
        if current is None or current.incarnation != incarnation or not needs_touch(current, now):
            return None
        return Update(touched(current, now), silent=True)

    return mutate


def extend(now: float, seconds: int | None) -> Mutate:
    """In use now, and for so many seconds; what is over stays so."""

    def mutate(current: Sandbox | None) -> Update | None:
        if current is None or not current.is_active:
            return None
        kept = touched(current, now, keep_seconds=seconds or 0)
        asked = seconds or 0
        is_later = (
            current.keep_alive_until < now + asked - min(TOUCH_INTERVAL_SECONDS, asked / 4)
            and current.expiry != kept.expiry
        )
        return Update(kept, silent=True) if is_later or needs_touch(current, now) else None

    return mutate


def request_deletion(is_meant: Callable[[Sandbox], bool]) -> Mutate:
    """Being deleted. Raises LaterLife, and changes nothing, when the present life is not the one that is meant."""

    def mutate(current: Sandbox | None) -> Update | None:
        if current is None:
            return None
        if not is_meant(current):
            raise IncarnationMismatch(
                f"Sandbox {current.id} is in its life {current.generation} by now; nothing was deleted.",
                generation=current.generation,
            )
        if current.status is Status.TERMINATING:
            return None
        record = next_attempt(terminating(current))
        return Update(record, (Job.of(JobKind.TERMINATE, record),))

    return mutate
