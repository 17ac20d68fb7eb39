"""Turns an update into the arguments of `update.lua`, the one script that writes records."""

from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from shared.queue import job as queue
from shared.queue.job import Job
from shared.redis.calls import redis_call
from shared.sandbox import history
from shared.sandbox.record import Sandbox
from shared.store import keys
from shared.store.indexes import index_updates
from shared.store.lua import SERVER_ID, load_script
from shared.store.tombstone import tombstone_change
from shared.store.update import SYNCED, Precondition, Update

FREED_KEPT = 16
"""Times at which a sandbox ended, kept to estimate when the next one ends."""
TOMBSTONE_SECONDS = 600
"""Lifetime of a tombstone. A Pod of a deleted incarnation may turn up this late."""
_NO_PRECONDITION = Precondition("-", "")

_encode = msgspec.json.Encoder().encode


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """Result of `update.lua`: `name`, its detail, and Redis' time in seconds since the epoch."""

    name: bytes
    detail: bytes
    now: float


class UpdateScript:
    """Runs `update.lua`. Lives as long as the `redis` it is given."""

    def __init__(self, redis: Redis) -> None:
        self._run = load_script(redis, __file__, "update.lua", prelude=SERVER_ID)

    async def run(
        self,
        sandbox_id: str,
        raw: bytes,
        before: Sandbox | None,
        update: Update,
        now: float,
        precondition: Precondition | None,
    ) -> Verdict:
        """Write `update` if the record is still `raw`, which decodes to `before`.

        Raises:
            StoreUnavailable: Redis does not answer; the update was written or not.
        """
        key, value = precondition or _NO_PRECONDITION
        scores = index_updates(before, update.record)
        request = {
            "id": sandbox_id,
            "precondition": value,
            "tombstone": tombstone_change(before, update.record),
            "frees_capacity": _frees_capacity(before, update.record),
            "limits": [{"maximum": limit.maximum, "indexes": limit.indexes} for limit in update.limits],
            "history": [history.encode_entry(e).decode() for e in history.entries_for(before, update.record, now)],
            "scores": ["" if score is None else repr(score) for score in scores.values()],
            "jobs": [{"id": job.id, "due_ms": str(job.score(now))} for job in update.jobs],
            **_CONSTANTS,
        }
        record_keys = [keys.record(sandbox_id), key, keys.history(sandbox_id), keys.tombstone(sandbox_id), keys.FREED]
        payloads = (raw, encode_record(update.record), *_payloads(update.jobs, now))
        async with redis_call():
            name, detail, redis_now = await self._run([*record_keys, *scores], request, payloads)
        return Verdict(name, detail, float(redis_now))


_CONSTANTS = {
    "synced": SYNCED,
    "tombstone_seconds": TOMBSTONE_SECONDS,
    "freed_kept": FREED_KEPT,
    "history_kept": history.MAX_ENTRIES,
    "job_key": keys.JOB,
    "job_expires_ms": queue.EXPIRES_MS,
    "queue": keys.QUEUE,
    "wakeup_channel": keys.WAKEUP_CHANNEL,
    "changes_channel": keys.CHANGES,
}


def encode_record(record: Sandbox | None) -> bytes:
    """Return the record as Redis holds it; empty for none."""
    return _encode(record) if record else b""


def _payloads(jobs: Sequence[Job], now: float) -> list[bytes]:
    return [job.payload(now) for job in jobs]


def _frees_capacity(before: Sandbox | None, after: Sandbox | None) -> bool:
    return before is not None and before.is_active and not (after is not None and after.is_active)
