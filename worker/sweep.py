"""Finds, never acts: what waits for a job and has had no progress gets another one. Its cost follows what is due."""

import structlog

from shared import logs
from shared.queue import Job, Work
from shared.sandbox import Sandbox, Status, another_attempt
from shared.store import Change, Store

log = structlog.get_logger()

BATCH = 500
"""Records a sweep looks at; the next one, ten seconds later, takes the rest."""


async def sweep(store: Store) -> int:
    """Enqueue a job for each record that is due; how many there were. Two sweeps at once do no harm."""
    due = await store.due(BATCH)
    return sum([await _again(store, sandbox_id) for sandbox_id in due])


async def _again(store: Store, sandbox_id: str) -> bool:
    """The record is looked at once more in the very step that enqueues: it may have moved since the index was read."""

    def move(record: Sandbox | None) -> Change | None:
        if record is None or record.due_at is None or record.due_at > store.now():
            return None
        following = another_attempt(record)
        work = Work.TERMINATE if record.status is Status.TERMINATING else Work.PROVISION
        return Change(following, (Job.of(work, following),))

    outcome = await store.change(sandbox_id, move)
    if outcome.written and outcome.record:
        with logs.about(sandbox_id=sandbox_id):
            log.warning("no progress, trying again", status=outcome.record.status, attempt=outcome.record.attempt)
    return outcome.written
