"""The updates that a create, a keep-alive and a delete make to a record. Pure; the store writes them."""

from collections.abc import Callable

from api.state.usage import TOUCH_INTERVAL_SECONDS, needs_touch
from shared.errors import IncarnationMismatch
from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import expiry_policy
from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import new_incarnation, new_record, next_attempt, terminating, touched
from shared.sandbox.urls import with_url
from shared.settings import Settings
from shared.store.limits import limits
from shared.store.update import Mutate, MutateOrCreate, Update


def create_or_keep(sandbox_id: str, spec: Spec, settings: Settings, *, now: float) -> MutateOrCreate:
    """Return an update that keeps an active incarnation, or begins the first or the next one.

    An existing sandbox is never refused: limits count for a new incarnation only.
    """
    deadline = now + settings.provision_timeout_seconds
    policy = expiry_policy(spec, settings)
    capacity = limits(settings, spec.user_id)

    def mutate(current: Sandbox | None) -> Update | None:
        if current is None:
            cluster = settings.cluster_name
            first = new_record(sandbox_id, spec, cluster=cluster, now=now, deadline=deadline, policy=policy)
            record = with_url(first, settings)
            return Update(record, (Job.of(JobKind.PROVISION, record),), capacity)
        if current.is_active:
            return None
        record = with_url(new_incarnation(current, spec, now=now, deadline=deadline, policy=policy), settings)
        # A Terminating incarnation has its terminate job. One that ended by itself may have left a Pod or a Service.
        cleanup = () if current.status is Status.TERMINATING else (Job.of(JobKind.TERMINATE, next_attempt(current)),)
        return Update(record, (*cleanup, Job.of(JobKind.PROVISION, record)), capacity)

    return mutate


def extend(now: float, seconds: int | None) -> Mutate:
    """Return an update that records a use, and keeps the sandbox alive for `seconds` from now if given."""

    def mutate(current: Sandbox) -> Update | None:
        if not current.is_active:
            return None
        keep_seconds = seconds or 0
        extended = touched(current, now, keep_seconds=keep_seconds)
        tolerance = min(TOUCH_INTERVAL_SECONDS, keep_seconds / 4)  # a gain below it is not worth a write
        is_later = current.keep_alive_until < now + keep_seconds - tolerance and current.expiry != extended.expiry
        return Update(extended, silent=True) if is_later or needs_touch(current, now) else None

    return mutate


def request_deletion(is_expected: Callable[[Sandbox], bool]) -> Mutate:
    """Return an update that ends the present incarnation.

    If the caller expects another incarnation, the update raises IncarnationMismatch and changes nothing.
    """

    def mutate(current: Sandbox) -> Update | None:
        if not is_expected(current):
            raise IncarnationMismatch(
                f"Sandbox {current.id} is in generation {current.generation} now. Nothing was deleted.",
                generation=current.generation,
            )
        if current.status is Status.TERMINATING:
            return None
        record = next_attempt(terminating(current))
        return Update(record, (Job.of(JobKind.TERMINATE, record),))

    return mutate
