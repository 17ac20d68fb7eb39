"""Finds, never acts: what waits for a job, or is over its time, gets one. Its cost follows what is due."""

import structlog

from shared import logs
from shared.errors import RecordUnreadable
from shared.queue import Job, Work
from shared.sandbox import ENDED, Reason, Sandbox, another_attempt, failed, terminating
from shared.store import Change, Store

log = structlog.get_logger()

BATCH = 500
"""Records a sweep looks at; the next one, ten seconds later, takes the rest."""


async def sweep(store: Store, retention: float) -> int:
    """Enqueue a job for each record that is due; how many there were. Two sweeps at once do no harm.

    `retention`: how long a sandbox that is given up can be read, in seconds.
    """
    due = await store.due(BATCH)
    return sum([await _again(store, sandbox_id, retention) for sandbox_id in due])


async def _again(store: Store, sandbox_id: str, retention: float) -> bool:
    """The record is looked at once more in the very step that enqueues: it may have moved since the index was read."""

    def move(record: Sandbox | None) -> Change | None:
        if record is None or record.due_at is None or record.due_at > store.now():
            return None
        following = another_attempt(_given_up(record, store.now() + retention))
        work = Work.PROVISION if following.wants_pod else Work.TERMINATE
        return Change(following, (Job.of(work, following),))

    try:
        outcome = await store.change(sandbox_id, move)
    except RecordUnreadable as error:
        log.warning("record left alone", sandbox_id=sandbox_id, error=error.detail)
        return False
    if outcome.written and outcome.record:
        with logs.about(sandbox_id=sandbox_id):
            log.warning("due, another job", status=outcome.record.status, attempt=outcome.record.attempt)
    return outcome.written


def _given_up(record: Sandbox, until: float) -> Sandbox:
    """As it goes on: what was never ready in its time has failed, what has failed long ago is removed."""
    if record.status in ENDED:
        return terminating(record)
    if record.wants_pod and record.is_provisioned:
        reason = record.reason or Reason.PROVISIONING_TIMED_OUT
        return failed(record, reason, f"Not ready in time. {record.message}".strip(), until=until)
    return record
