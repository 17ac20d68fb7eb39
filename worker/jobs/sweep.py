"""Finds, never acts: what waits for a job, or is over its time, gets one. Its cost follows what is due."""

import asyncio

import structlog
from msgspec.structs import replace

from shared import logs
from shared.liveness.vitals import Vitals
from shared.queue.job import Job, Work
from shared.sandbox.record import ENDED, NO_PROGRESS_SECONDS, EndedBy, Reason, Sandbox
from shared.sandbox.transitions import another_attempt, asked, expired, failed, terminating
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Change
from worker.jobs.cleanup_throttle import Pacing

log = structlog.get_logger()

BATCH = 500
BATCHES = 40
"""A sweep looks at so many records at most; the next one, ten seconds later, takes the rest."""
AT_ONCE = 16
ASK_SECONDS = 60.0
"""For a job to ask a sandbox whether it is busy; after that another one does."""


async def sweep(store: Store, pacing: Pacing, settings: Settings) -> int:
    """Enqueue a job for each record that is due; how many there were. Two sweeps at once do no harm."""
    swept = skipped = 0
    observed_at = await Vitals(store.redis, store.now, settings.cluster_name).observed_at() or 0.0
    for _ in range(BATCHES):
        due = await store.due(BATCH, skipped)
        written = await _batch(store, pacing, settings, [r for r in due if r is not None], observed_at)
        swept += written
        skipped += len(due) - written  # gone by now, moved on, or unreadable: not to be looked at again
        if len(due) < BATCH:
            break
    return swept


async def _batch(store: Store, pacing: Pacing, settings: Settings, due: list[Sandbox], observed_at: float) -> int:
    """Clean-ups are planned behind each other: thousands at once delay no create."""
    over = [record.id for record in due if _over_by(record, store.now()) or record.is_cleanup]
    times = dict(zip(over, await pacing.times(len(over)), strict=True))
    count = 0
    for start in range(0, len(due), AT_ONCE):
        some = due[start : start + AT_ONCE]
        count += sum(await asyncio.gather(*(_again(store, r, settings, times.get(r.id), observed_at) for r in some)))
    return count


async def _again(store: Store, believed: Sandbox, settings: Settings, at: float | None, observed_at: float) -> bool:
    """The record is looked at once more in the very step that enqueues: it may have moved since the index was read."""

    def move(record: Sandbox | None) -> Change | None:
        now = store.now()
        if record is None or record.due_at is None or record.due_at > now:
            return None
        return due_change(record, settings, now=now, at=at or now, observed_at=observed_at)

    outcome = await store.change(believed.id, move, believed=believed)
    if outcome.written and outcome.record:
        _say(believed, outcome.record)
    return outcome.written


def _say(before: Sandbox, record: Sandbox) -> None:
    is_asked, is_ended = record.asked_until != before.asked_until, record.ended_at != before.ended_at
    with logs.about(sandbox_id=record.id):
        if is_asked or is_ended:
            log.info("its time is over", by=record.ended_by, asked=is_asked)
        else:
            log.warning("due, another job", status=record.status, attempt=record.attempt)


def due_change(record: Sandbox, settings: Settings, *, now: float, at: float, observed_at: float) -> Change | None:
    """What becomes of a record that is due `now`; its clean-up, if that is it, may begin `at`. Pure.

    None: it would be given up for not being ready in time, but nobody has looked since (`observed_at`): it may be.
    """
    by = _over_by(record, now)
    if by is not None:
        return _over(record, by, settings, now=now, at=at)
    if record.wants_pod and record.is_provisioned and observed_at < (record.until or 0.0):
        return None
    if record.is_cleanup:
        again = replace(another_attempt(record), until=at + NO_PROGRESS_SECONDS)
        return Change(again, (Job.of(Work.TERMINATE, again, at),))
    following = another_attempt(_given_up(record, now + settings.failed_retention_seconds))
    work = Work.PROVISION if following.wants_pod else Work.TERMINATE
    return Change(following, (Job.of(work, following),))


def _over_by(record: Sandbox, now: float) -> EndedBy | None:
    """Which of its times is over. While an idle one is asked whether it is busy, something else made it due."""
    by = record.over_by(now)
    return None if by is EndedBy.IDLE and (record.asked_until or 0.0) > now else by


def _over(record: Sandbox, by: EndedBy, settings: Settings, *, now: float, at: float) -> Change:
    """An idle one may be asked first: its user may talk to it, and not to us."""
    if by is EndedBy.IDLE and settings.sandbox_activity_path and record.is_provisioned:
        question = another_attempt(asked(record, at + ASK_SECONDS))
        return Change(question, (Job.of(Work.ASK, question, at),))
    ending = another_attempt(expired(record, by, now, until=at + NO_PROGRESS_SECONDS))
    return Change(ending, (Job.of(Work.TERMINATE, ending, at),))


def _given_up(record: Sandbox, until: float) -> Sandbox:
    """As it goes on: what was never ready in its time has failed, what has failed long ago is removed."""
    if record.status in ENDED:
        return terminating(record)
    if record.wants_pod and record.is_provisioned:
        reason = record.reason or Reason.PROVISIONING_TIMED_OUT
        return failed(record, reason, f"Not ready in time. {record.message}".strip(), until=until)
    return record
