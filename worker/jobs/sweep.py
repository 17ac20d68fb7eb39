"""Finds, never acts: what waits for a job, or is over its time, gets one. Its cost follows what is due."""

import asyncio

import structlog
from msgspec.structs import replace

from shared import logs
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS, TERMINAL_STATUSES, ExpiryCause, Reason, Sandbox
from shared.sandbox.transitions import expired, failed, next_attempt, probing, terminating
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Update
from worker.jobs.cleanup_throttle import CleanupThrottle

log = structlog.get_logger()

BATCH = 500
BATCHES = 40
"""A sweep looks at so many records at most; the next one, ten seconds later, takes the rest."""
AT_ONCE = 16
ASK_SECONDS = 60.0
"""For a job to ask a sandbox whether it is busy; after that another one does."""


async def sweep(store: Store, throttle: CleanupThrottle, settings: Settings) -> int:
    """Enqueue a job for each record that is due; how many there were. Two sweeps at once do no harm."""
    swept = skipped = 0
    observed_at = await ClusterSync(store.redis, store.now, settings.cluster_name).synced_at() or 0.0
    for _ in range(BATCHES):
        due = await store.due(BATCH, skipped)
        written = await _batch(store, throttle, settings, [r for r in due if r is not None], observed_at)
        swept += written
        skipped += len(due) - written  # gone by now, moved on, or unreadable: not to be looked at again
        if len(due) < BATCH:
            break
    return swept


async def _batch(
    store: Store, throttle: CleanupThrottle, settings: Settings, due: list[Sandbox], observed_at: float
) -> int:
    """Clean-ups are planned behind each other: thousands at once delay no create."""
    over = [record.id for record in due if _expired_by(record, store.now()) or record.is_expiring]
    times = dict(zip(over, await throttle.reserve(len(over)), strict=True))
    count = 0
    for start in range(0, len(due), AT_ONCE):
        some = due[start : start + AT_ONCE]
        count += sum(await asyncio.gather(*(_again(store, r, settings, times.get(r.id), observed_at) for r in some)))
    return count


async def _again(store: Store, believed: Sandbox, settings: Settings, at: float | None, observed_at: float) -> bool:
    """The record is looked at once more in the very step that enqueues: it may have moved since the index was read."""

    def mutate(record: Sandbox) -> Update | None:
        now = store.now()
        if record.due_at is None or record.due_at > now:
            return None
        return update_for_due(record, settings, now=now, at=at or now, observed_at=observed_at)

    outcome = await store.update_cached(believed, mutate)
    if outcome.written and outcome.record:
        _say(believed, outcome.record)
    return outcome.written


def _say(before: Sandbox, record: Sandbox) -> None:
    is_asked, is_ended = record.probing_until != before.probing_until, record.expired_at != before.expired_at
    with logs.log_context(sandbox_id=record.id):
        if is_asked or is_ended:
            log.info("its time is over", by=record.expired_by, asked=is_asked)
        else:
            log.warning("due, another job", status=record.status, attempt=record.attempt)


def update_for_due(record: Sandbox, settings: Settings, *, now: float, at: float, observed_at: float) -> Update | None:
    """What becomes of a record that is due `now`; its clean-up, if that is it, may begin `at`. Pure.

    None: it would be given up for not being ready in time, but nobody has looked since (`observed_at`): it may be.
    """
    by = _expired_by(record, now)
    if by is not None:
        return _expire(record, by, settings, now=now, at=at)
    if record.is_active and record.is_provisioned and observed_at < (record.deadline or 0.0):
        return None
    if record.is_expiring:
        again = replace(next_attempt(record), deadline=at + STALLED_SECONDS)
        return Update(again, (Job.of(JobKind.TERMINATE, again, at),))
    following = next_attempt(_give_up(record, now + settings.failed_retention_seconds))
    work = JobKind.PROVISION if following.is_active else JobKind.TERMINATE
    return Update(following, (Job.of(work, following),))


def _expired_by(record: Sandbox, now: float) -> ExpiryCause | None:
    """Which of its times is over. While an idle one is asked whether it is busy, something else made it due."""
    by = record.expired_by_now(now)
    return None if by is ExpiryCause.IDLE and (record.probing_until or 0.0) > now else by


def _expire(record: Sandbox, by: ExpiryCause, settings: Settings, *, now: float, at: float) -> Update:
    """An idle one may be asked first: its user may talk to it, and not to us."""
    if by is ExpiryCause.IDLE and settings.sandbox_activity_path and record.is_provisioned:
        question = next_attempt(probing(record, at + ASK_SECONDS))
        return Update(question, (Job.of(JobKind.PROBE_ACTIVITY, question, at),))
    ending = next_attempt(expired(record, by, now, deadline=at + STALLED_SECONDS))
    return Update(ending, (Job.of(JobKind.TERMINATE, ending, at),))


def _give_up(record: Sandbox, deadline: float) -> Sandbox:
    """As it goes on: what was never ready in its time has failed, what has failed long ago is removed."""
    if record.status in TERMINAL_STATUSES:
        return terminating(record)
    if record.is_active and record.is_provisioned:
        reason = record.reason or Reason.PROVISIONING_TIMED_OUT
        return failed(record, reason, f"Not ready in time. {record.message}".strip(), deadline=deadline)
    return record
