"""The store: reads records from Redis (`shared.store.reader`), and changes each with one atomic update.

An update reads the record, applies a pure function, and writes the result if the record is still what was read. The
same step writes the indexes and the history, enqueues the jobs, and publishes the id (`update.lua`). So a record and
its job are never out of step.

Redis may carry out a step and lose the answer. Then the step is sent again and finds a record that it does not expect.
The function is called with that record, sees its own work, and leaves it.
"""

from collections.abc import Awaitable, Sequence
from typing import cast

from msgspec.structs import replace
from redis.asyncio import Redis

from shared import metrics
from shared.errors import LimitReached, PreconditionFailed
from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox
from shared.store import keys
from shared.store.lua import load_script
from shared.store.reader import RecordReader, decode_record
from shared.store.update import Mutate, MutateOrCreate, Precondition, Update, UpdateResult
from shared.store.update_script import UpdateScript, encode_record

_DEFAULT_RETRY_SECONDS = 60.0
"""Retry-After of a reached limit while no sandbox has ended yet."""


class Store(RecordReader):
    """Reads and writes records."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        super().__init__(redis, clock)
        self._update = UpdateScript(redis)
        self._append_history = load_script(redis, __file__, "append_history.lua")

    async def append_history(
        self, sandbox_id: str, entries: Sequence[HistoryEntry], precondition: Precondition
    ) -> None:
        """Append to the history of a sandbox. An entry that repeats an earlier one replaces it.

        Raises:
            PreconditionFailed: the precondition does not hold; nothing was written.
            StoreUnavailable: Redis does not answer.
        """
        request = {
            "precondition": precondition.value,
            "history_kept": history.MAX_ENTRIES,
            "entries": [{"text": history.encode_entry(e).decode(), "dedup_key": e.dedup_key} for e in entries],
        }
        script_keys = [keys.record(sandbox_id), precondition.key, keys.history(sandbox_id)]
        async with redis_call():
            verdict = await self._append_history(script_keys, request)
        if verdict == b"fenced":
            raise PreconditionFailed(sandbox_id)

    async def update(
        self,
        sandbox_id: str,
        mutate: Mutate,
        *,
        incarnation: str | None = None,
        precondition: Precondition | None = None,
    ) -> UpdateResult:
        """Read the record and apply `mutate`, which is not called for a missing record or another `incarnation`.

        Raises:
            StoreUnavailable: Redis does not answer; the update was written or not, and may be tried again.
            PreconditionFailed: the precondition does not hold; nothing was written.
            LimitReached: a limit of the update is reached; nothing was written.
            RecordUnreadable: Redis holds no record of this version; nothing was written.
        """
        return await self._apply(
            sandbox_id, await self._raw(sandbox_id), _existing(mutate, incarnation), precondition, is_fresh=True
        )

    async def update_cached(
        self, record: Sandbox, mutate: Mutate, *, precondition: Precondition | None = None
    ) -> UpdateResult:
        """Apply `mutate` to this incarnation, and save the read if `record` is still the record in Redis.

        Raises:
            see `update`.
        """
        raw = encode_record(record)
        return await self._apply(record.id, raw, _existing(mutate, record.incarnation), precondition)

    async def create_or_update(
        self, sandbox_id: str, mutate: MutateOrCreate, *, precondition: Precondition | None = None
    ) -> UpdateResult:
        """Apply `mutate`, which is called with None if there is no record. A create saves the read.

        Raises:
            see `update`.
        """
        return await self._apply(sandbox_id, b"", mutate, precondition)

    async def _apply(
        self,
        sandbox_id: str,
        raw: bytes,
        mutate: MutateOrCreate,
        precondition: Precondition | None,
        *,
        is_fresh: bool = False,
    ) -> UpdateResult:
        """Compare and set until a step is written, or `mutate` leaves the record that Redis holds now.

        `raw` is the record as the caller knows it; `is_fresh`: it was just read.
        """
        while True:
            current = decode_record(raw)
            update = self._stamped(current, mutate(current))
            if update is None and is_fresh:
                return UpdateResult(current, written=False)
            if update is None:
                raw, is_fresh = await self._raw(sandbox_id), True
                continue
            verdict = await self._update.run(sandbox_id, raw, current, update, self.now(), precondition)
            self._redis_clock.synchronize(verdict.now)
            if verdict.name == b"done":
                metrics.record_transition(current, update.record)
                return UpdateResult(update.record, written=True)
            if verdict.name == b"fenced":
                raise PreconditionFailed(sandbox_id)
            if verdict.name == b"full":
                limit = update.limits[int(verdict.detail) - 1]
                raise LimitReached(limit.name, limit.maximum, await self._retry_after_seconds())
            raw, is_fresh = verdict.detail, True

    def _stamped(self, current: Sandbox | None, result: Sandbox | Update | None) -> Update | None:
        """Return the update to write, with the next revision and the time; None if nothing changes."""
        if isinstance(result, Sandbox):
            result = Update(result) if result != current else None
        update = result
        if update is None or update.silent or update.record is None:
            return update
        if current is None or current.token != update.record.token:
            return update
        record = replace(update.record, revision=current.revision + 1, updated_at=self.now())
        return update._replace(record=record)

    async def _retry_after_seconds(self) -> float:
        """Return the average time between two ends of a sandbox, in seconds."""
        async with redis_call():
            freed = await cast(Awaitable[list[bytes]], self.redis.lrange(keys.FREED, 0, -1))
        return (self.now() - float(freed[-1])) / len(freed) if freed else _DEFAULT_RETRY_SECONDS


def _existing(mutate: Mutate, incarnation: str | None) -> MutateOrCreate:
    """Return `mutate` for a record that exists and, if given, is of this incarnation."""

    def mutate_existing(current: Sandbox | None) -> Sandbox | Update | None:
        if current is None or incarnation not in {None, current.incarnation}:
            return None
        return mutate(current)

    return mutate_existing
