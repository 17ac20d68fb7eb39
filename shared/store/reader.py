"""Reads of records, alone and in lists, and of their histories and tombstones."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import NamedTuple, cast

import msgspec
import structlog
from redis.asyncio import Redis

from shared.errors import RecordUnreadable
from shared.queue.job import Job, JobKind
from shared.redis.calls import redis_call
from shared.redis.clock import Clock, RedisClock
from shared.redis.connection import subscribe
from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox
from shared.store import keys
from shared.store.indexes import Selection
from shared.store.pagination import Cursor
from shared.store.tombstone import Tombstone, decode_tombstone

log = structlog.get_logger()

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


class RecordReader:
    """Reads only. Lives as long as the `redis` it is given. The caller that opened `redis` closes it."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self.redis = redis
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
        async with redis_call():
            seconds, microseconds = await self.redis.time()
        self._redis_clock.synchronize(seconds + microseconds / 1_000_000)

    async def get(self, sandbox_id: str) -> Sandbox | None:
        """Return the record.

        Raises:
            StoreUnavailable: Redis does not answer.
            RecordUnreadable: Redis holds no record of this version.
        """
        return decode_record(await self._raw(sandbox_id))

    async def all(self) -> list[Sandbox]:
        """Return every record, oldest first, in several reads. A record written in between may be missing."""
        async with redis_call():
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
        async with redis_call():
            ids = await self.redis.zrangebyscore(keys.DEADLINE, "-inf", self.now(), start=skip, num=limit)
        return await self._get_many([sandbox_id.decode() for sandbox_id in ids])

    async def tombstone(self, sandbox_id: str) -> Tombstone | None:
        """Return the tombstone of an id that has no record any more."""
        async with redis_call():
            raw = await self.redis.get(keys.tombstone(sandbox_id))
        return decode_tombstone(raw) if raw else None

    async def history(self, sandbox_id: str) -> list[HistoryEntry]:
        """Return the history of a sandbox, newest last."""
        async with redis_call():
            entries = await cast(Awaitable[list[bytes]], self.redis.lrange(keys.history(sandbox_id), 0, -1))
        return [history.read_entry(raw) for raw in entries]

    async def provisioning_workers(self, record: Sandbox) -> set[str]:
        """Return the names of the workers that run a provision job of this incarnation, or died running one."""
        attempts = range(max(1, record.attempt - _MARKED_ATTEMPTS), record.attempt + 1)
        jobs = [Job(JobKind.PROVISION, record.id, record.incarnation, attempt) for attempt in attempts]
        async with redis_call():
            marks = await self.redis.mget([keys.IN_PROGRESS + job.id for job in jobs])
        return {mark.decode() for mark in marks if mark}

    async def watch(self) -> AsyncIterator[str | None]:
        """Yield the id of each record that changes; None whenever changes may have been missed, as at the start.

        Raises:
            StoreUnavailable: the subscription is lost.
        """
        async for message in subscribe(self.redis, keys.CHANGES):
            yield None if message is None else message.decode(errors="replace")

    async def _index_page(self, index: str, after: Cursor) -> tuple[list[Cursor], bool]:
        """Return the next entries of an index, and True if no more follow. Entries of one time are ordered by id."""
        offset = 0
        while True:
            async with redis_call():
                entries = await self.redis.zrangebyscore(
                    index, after.created_at, "+inf", start=offset, num=_INDEX_CHUNK, withscores=True
                )
            cursors = [Cursor(score, sandbox_id.decode()) for sandbox_id, score in entries]
            later = [cursor for cursor in cursors if cursor > after]
            if later or len(entries) < _INDEX_CHUNK:
                return later, len(entries) < _INDEX_CHUNK
            offset += _INDEX_CHUNK

    async def _raw(self, sandbox_id: str) -> bytes:
        async with redis_call():
            return await self.redis.get(keys.record(sandbox_id)) or b""

    async def _get_many(self, ids: Sequence[str]) -> list[Sandbox | None]:
        """Return one record an id; None if it is deleted by now, or unreadable."""
        records: list[Sandbox | None] = []
        for start in range(0, len(ids), RECORD_CHUNK):
            async with redis_call():
                raws = await self.redis.mget([keys.record(i) for i in ids[start : start + RECORD_CHUNK]])
            records += [_readable(raw or b"") for raw in raws]
        return records


def decode_record(raw: bytes) -> Sandbox | None:
    try:
        return _decode(raw) if raw else None
    except (ValueError, RecursionError) as error:  # a later version wrote it, or another program
        raise RecordUnreadable(raw, error) from error


def _readable(raw: bytes) -> Sandbox | None:
    """Return the record, or None if it is unreadable: one such record must not hide all others."""
    try:
        return decode_record(raw)
    except RecordUnreadable as error:
        log.warning("unreadable record left out", error=error.detail)
        return None
