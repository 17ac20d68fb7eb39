"""The store: reads records from Redis, and changes each with one atomic update.

An update reads the record, applies a pure function, and writes the result if the record is still what was read. The
same step writes the indexes and the history, enqueues the jobs, and publishes the id (`update.lua`). So a record and
its job are never out of step.

Redis may carry out a step and lose the answer. Then the step is sent again and finds a record that it does not expect.
The function is called with that record, sees its own work, and leaves it.
"""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import NamedTuple, cast

import msgspec
import structlog
from msgspec.structs import replace
from redis.asyncio import Redis

from shared import metrics
from shared.errors import LimitReached, PreconditionFailed, RecordUnreadable
from shared.queue.job import Job, JobKind
from shared.redis.clock import Clock, RedisClock
from shared.redis.connection import subscribe, translate_redis_errors
from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox
from shared.store import keys
from shared.store.indexes import Selection
from shared.store.lua import load_script
from shared.store.pagination import Cursor
from shared.store.tombstone import Tombstone, decode_tombstone
from shared.store.update import Mutate, MutateOrCreate, Precondition, Update, UpdateResult
from shared.store.update_script import UpdateScript, encode_record

log = structlog.get_logger()

_DEFAULT_RETRY_SECONDS = 60.0
"""Retry-After of a reached limit while no sandbox has ended yet."""
_INDEX_CHUNK = 500
"""Ids in one read of an index."""
RECORD_CHUNK = 100
"""Records in one read. Redis and this process answer others between two reads."""
_MARKED_ATTEMPTS = 8
"""Attempts whose in-progress mark may still exist: a mark lasts a minute, attempts are 15 s apart."""
_PAGE_CHUNKS = 4
"""Reads of an index for one page, however few of the records match."""

_decode = msgspec.json.Decoder(Sandbox).decode


class Page(NamedTuple):
    """A page of a list. `next` is None after the last page."""

    records: list[Sandbox]
    next: Cursor | None


class Store:
    """Lives as long as the `redis` it is given; whoever opened that closes it."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self.redis = redis
        self._update = UpdateScript(redis)
        self._append_history = load_script(redis, __file__, "append_history.lua")
        self._redis_clock = RedisClock()
        self._clock = clock or self._redis_clock

    def now(self) -> float:
        """Return Redis' time, in seconds since the epoch, as this process knows it."""
        return self._clock()

    async def set_clock(self) -> None:
        """Read Redis' time. Each update does the same in passing.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with translate_redis_errors():
            seconds, microseconds = await self.redis.time()
        self._redis_clock.synchronize(seconds + microseconds / 1_000_000)

    async def get(self, sandbox_id: str) -> Sandbox | None:
        """Return the record.

        Raises:
            StoreUnavailable: Redis does not answer.
            RecordUnreadable: Redis holds no record of this version.
        """
        return _record(await self._raw(sandbox_id))

    async def all(self) -> list[Sandbox]:
        """Return every record, oldest first, in several reads. A record written in between may be missing."""
        with translate_redis_errors():
            ids = await self.redis.zrange(keys.CREATED, 0, -1)
        return [record for record in await self._get_many([i.decode() for i in ids]) if record is not None]

    async def page(self, selection: Selection, after: Cursor, limit: int) -> Page:
        """Return at most `limit` matching records that come after `after`, oldest first.

        One page reads a few chunks of the index. So a page may be short, or empty, and not be the last.
        """
        records: list[Sandbox] = []
        for _ in range(_PAGE_CHUNKS):
            cursors, is_end = await self._index_page(selection.smallest_index, after)
            for cursor, record in zip(cursors, await self._get_many([c.sandbox_id for c in cursors]), strict=True):
                after = cursor
                if record is not None and selection.matches(record):
                    records.append(record)
                if len(records) == limit:
                    return Page(records, after)
            if is_end:
                return Page(records, None)
        return Page(records, after)

    async def due(self, limit: int, skip: int = 0) -> list[Sandbox | None]:
        """Return at most `limit` records whose `due_at` has come, the longest overdue first.

        An entry is None if its record is deleted by now, or unreadable.
        """
        with translate_redis_errors():
            ids = await self.redis.zrangebyscore(keys.DEADLINE, "-inf", self.now(), start=skip, num=limit)
        return await self._get_many([sandbox_id.decode() for sandbox_id in ids])

    async def tombstone(self, sandbox_id: str) -> Tombstone | None:
        """Return the tombstone of an id that has no record any more."""
        with translate_redis_errors():
            raw = await self.redis.get(keys.tombstone(sandbox_id))
        return decode_tombstone(raw) if raw else None

    async def history(self, sandbox_id: str) -> list[HistoryEntry]:
        """Return the history of a sandbox, newest last."""
        with translate_redis_errors():
            entries = await cast(Awaitable[list[bytes]], self.redis.lrange(keys.history(sandbox_id), 0, -1))
        return [history.read_entry(raw) for raw in entries]

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
        with translate_redis_errors():
            verdict = await self._append_history(script_keys, request)
        if verdict == b"fenced":
            raise PreconditionFailed(sandbox_id)

    async def watch(self) -> AsyncIterator[str | None]:
        """Yield the id of each record that changes; None whenever changes may have been missed, as at the start.

        Raises:
            StoreUnavailable: the subscription is lost.
        """
        async for message in subscribe(self.redis, keys.CHANGES):
            yield None if message is None else message.decode(errors="replace")

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

    async def provisioning_workers(self, record: Sandbox) -> set[str]:
        """Return the names of the workers that run a provision job of this incarnation, or died running one."""
        attempts = range(max(1, record.attempt - _MARKED_ATTEMPTS), record.attempt + 1)
        jobs = [Job(JobKind.PROVISION, record.id, record.incarnation, attempt) for attempt in attempts]
        with translate_redis_errors():
            marks = await self.redis.mget([keys.IN_PROGRESS + job.id for job in jobs])
        return {mark.decode() for mark in marks if mark}

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
            current = _record(raw)
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
        with translate_redis_errors():
            freed = await cast(Awaitable[list[bytes]], self.redis.lrange(keys.FREED, 0, -1))
        return (self.now() - float(freed[-1])) / len(freed) if freed else _DEFAULT_RETRY_SECONDS

    async def _index_page(self, index: str, after: Cursor) -> tuple[list[Cursor], bool]:
        """Return the next entries of an index, and True if no more follow. Entries of one time are ordered by id."""
        offset = 0
        while True:
            with translate_redis_errors():
                entries = await self.redis.zrangebyscore(
                    index, after.created_at, "+inf", start=offset, num=_INDEX_CHUNK, withscores=True
                )
            cursors = [Cursor(score, sandbox_id.decode()) for sandbox_id, score in entries]
            later = [cursor for cursor in cursors if cursor > after]
            if later or len(entries) < _INDEX_CHUNK:
                return later, len(entries) < _INDEX_CHUNK
            offset += _INDEX_CHUNK

    async def _raw(self, sandbox_id: str) -> bytes:
        with translate_redis_errors():
            return await self.redis.get(keys.record(sandbox_id)) or b""

    async def _get_many(self, ids: Sequence[str]) -> list[Sandbox | None]:
        """Return one record an id; None if it is deleted by now, or unreadable."""
        records: list[Sandbox | None] = []
        for start in range(0, len(ids), RECORD_CHUNK):
            with translate_redis_errors():
                raws = await self.redis.mget([keys.record(i) for i in ids[start : start + RECORD_CHUNK]])
            records += [_readable(raw or b"") for raw in raws]
        return records


def _existing(mutate: Mutate, incarnation: str | None) -> MutateOrCreate:
    """Return `mutate` for a record that exists and, if given, is of this incarnation."""

    def mutate_existing(current: Sandbox | None) -> Sandbox | Update | None:
        if current is None or incarnation not in {None, current.incarnation}:
            return None
        return mutate(current)

    return mutate_existing


def _record(raw: bytes) -> Sandbox | None:
    try:
        return _decode(raw) if raw else None
    except msgspec.DecodeError as error:  # a later version wrote it, or another program
        raise RecordUnreadable(raw, error) from error


def _readable(raw: bytes) -> Sandbox | None:
    """Return the record, or None if it is unreadable: one such record must not hide all others."""
    try:
        return _record(raw)
    except RecordUnreadable as error:
        log.warning("unreadable record left out", error=error.detail)
        return None
