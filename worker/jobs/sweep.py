"""The sweep: enqueues a job for each record that is due. It never acts itself. Its cost follows what is due."""

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

BATCH_SIZE = 500
MAX_BATCHES = 40
"""Batches of one sweep. The next sweep takes the rest."""
SWEEP_CONCURRENCY = 16
"""Records that one sweep updates at once."""
PROBE_SECONDS = 60.0
"""Time for an activity probe to answer. After that the sweep enqueues another one."""


async def sweep(store: Store, throttle: CleanupThrottle, settings: Settings) -> int:
    """Enqueue a job for each record that is due, and return their number. Two sweeps at once do no harm.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    swept = skipped = 0
    synced_at = await ClusterSync(store.redis, store.now, settings.cluster_name).synced_at() or 0.0
    for _ in range(MAX_BATCHES):
        due = await store.due(BATCH_SIZE, skipped)
        written = await _sweep_batch(store, throttle, settings, [r for r in due if r is not None], synced_at)
        swept += written
        skipped += len(due) - written  # deleted, updated meanwhile, or unreadable: not read again by this sweep
        if len(due) < BATCH_SIZE:
            break
    return swept


async def _sweep_batch(
    store: Store, throttle: CleanupThrottle, settings: Settings, due: list[Sandbox], synced_at: float
) -> int:
    """Update the records of one batch, and return how many changed. Each clean-up gets a slot of the throttle."""
    cleanup_ids = [record.id for record in due if _expired_by(record, store.now()) or record.is_expiring]
    slots = dict(zip(cleanup_ids, await throttle.reserve(len(cleanup_ids)), strict=True))
    count = 0
    for start in range(0, len(due), SWEEP_CONCURRENCY):
        chunk = due[start : start + SWEEP_CONCURRENCY]
        count += sum(await asyncio.gather(*(_sweep(store, r, settings, slots.get(r.id), synced_at) for r in chunk)))
    return count


async def _sweep(store: Store, record: Sandbox, settings: Settings, slot: float | None, synced_at: float) -> bool:
    """Update one record, and return True if it changed. The record may have changed since the index was read."""

    def mutate(current: Sandbox) -> Update | None:
        now = store.now()
        if current.due_at is None or current.due_at > now:
            return None
        return update_for_due(current, settings, now=now, starts_at=slot or now, synced_at=synced_at)

    result = await store.update_cached(record, mutate)
    if result.written and result.record:
        _log_update(record, result.record)
    return result.written


def _log_update(before: Sandbox, after: Sandbox) -> None:
    with logs.log_context(sandbox_id=after.id):
        if after.expired_at != before.expired_at:
            log.info("sandbox expired", cause=after.expired_by)
        elif after.probing_until != before.probing_until:
            log.info("sandbox idle; activity probe enqueued")
        else:
            log.warning("sandbox stalled; job enqueued again", status=after.status, attempt=after.attempt)


def update_for_due(
    record: Sandbox, settings: Settings, *, now: float, starts_at: float, synced_at: float
) -> Update | None:
    """Return the update of a record that is due `now`. A clean-up may begin `starts_at`. Pure.

    Return None in two cases. The record would expire, but this Redis server is not synced (`synced_at` is 0): the
    record may be older than the last use. Or the record would fail for not being ready, but no leader has synced the
    cluster since its deadline: the Pod may be ready.
    """
    cause = _expired_by(record, now)
    if cause is not None and not synced_at:
        return None
    if cause is not None:
        return _expire(record, cause, settings, now=now, starts_at=starts_at)
    if record.is_active and record.is_provisioned and synced_at < (record.deadline or 0.0):
        return None
    if record.is_expiring:
        retried = replace(next_attempt(record), deadline=starts_at + STALLED_SECONDS)
        return Update(retried, (Job.of(JobKind.TERMINATE, retried, starts_at),))
    retried = next_attempt(_give_up(record, now + settings.failed_retention_seconds))
    kind = JobKind.PROVISION if retried.is_active else JobKind.TERMINATE
    return Update(retried, (Job.of(kind, retried),))


def _expired_by(record: Sandbox, now: float) -> ExpiryCause | None:
    """Return why the record expires now. While an activity probe runs, an idle record does not."""
    cause = record.expired_by_now(now)
    return None if cause is ExpiryCause.IDLE and (record.probing_until or 0.0) > now else cause


def _expire(record: Sandbox, cause: ExpiryCause, settings: Settings, *, now: float, starts_at: float) -> Update:
    """Probe an idle sandbox first, if the settings have a path for that: its user may talk to it directly."""
    if cause is ExpiryCause.IDLE and settings.sandbox_activity_path and record.is_provisioned:
        probed = next_attempt(probing(record, starts_at + PROBE_SECONDS))
        return Update(probed, (Job.of(JobKind.PROBE_ACTIVITY, probed, starts_at),))
    ended = next_attempt(expired(record, cause, now, deadline=starts_at + STALLED_SECONDS))
    return Update(ended, (Job.of(JobKind.TERMINATE, ended, starts_at),))


def _give_up(record: Sandbox, deadline: float) -> Sandbox:
    """Fail a sandbox that was not ready in time. End one that failed long ago. Leave any other as it is."""
    if record.status in TERMINAL_STATUSES:
        return terminating(record)
    if record.is_active and record.is_provisioned:
        reason = record.reason or Reason.PROVISIONING_TIMED_OUT
        return failed(record, reason, f"Not ready in time. {record.message}".strip(), deadline=deadline)
    return record
