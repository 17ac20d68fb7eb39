"""The records in Redis: the only reader and writer of their keys.

| key | type | holds |
|---|---|---|
| `sandbox:{id}` | string | the record, JSON |
| `sandbox:{id}:history` | list | what happened to it, JSON (`shared.sandbox.history`), newest last |
| `sandbox:{id}:tombstone` | string | for ten minutes: which life has gone, and when and why if its time was over |
| `sandboxes:freed` | list | when room was made, lately |
| `sandboxes:…` | sorted sets | the indexes (`shared.store.indexes`) |
| `sandboxes:changes` | channel | the id of each record that changed |

Every change is one atomic step: read, apply a pure function, write if nobody wrote since, and in the same step the
indexes, what it adds to the history, the jobs that the change asks for, and one publish. A step that was carried out
but whose answer was lost may be sent again: the record is then no longer the one it was based on, so the function sees
its own work and says so.
"""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import NamedTuple, cast

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from redis.asyncio import Redis

from shared import metrics
from shared.errors import LimitReached, PreconditionFailed, RecordUnreadable
from shared.queue import job as queue
from shared.queue.job import Job, JobKind
from shared.redis.clock import Clock, RedisClock
from shared.redis.connection import subscribe, translate_redis_errors
from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox
from shared.store import indexes
from shared.store.indexes import Selection
from shared.store.lua import CHANGES, STEP, TELL, filled
from shared.store.pagination import Cursor
from shared.store.update import Mutate, Precondition, Update, UpdateResult

log = structlog.get_logger()

_KEY = "sandbox:"
_HISTORY = ":history"
_TOMBSTONE = ":tombstone"
_FREED = "sandboxes:freed"
_MAX_WAIT_SECONDS = 60.0
_NO_GUARD = "-"
_INDEX_CHUNK = 500
"""Ids a read of an index."""
RECORD_CHUNK = 100
"""Records a read: so few that Redis and this process answer others in between."""
_MARKED_ATTEMPTS = 8
"""A mark lives for a minute, and attempts are a quarter of a minute apart: older ones have none any more."""
_PAGE_CHUNKS = 4
"""Reads a page, however few of what they find is of the selection."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Sandbox).decode


class Tombstone(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a life whose record was forgotten lately: a Pod of it that turns up is nobody's. `at`, `by`: its time was
    over."""

    incarnation: str
    at: float = 0.0
    by: str = ""


class Page(NamedTuple):
    """`next` is None after the last page."""

    records: list[Sandbox]
    next: Cursor | None


class Store:
    """Lives as long as the `redis` it is given, which whoever opened it closes. Others may use that too."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self.redis = redis
        self._step = redis.register_script(filled(STEP))
        self._tell = redis.register_script(filled(TELL))
        of_redis = RedisClock()
        self._clock = clock or of_redis
        self._synchronize = of_redis.synchronize

    def now(self) -> float:
        return self._clock()

    async def set_clock(self) -> None:
        """Ask Redis for the time, before anything is done by it. Each step does so again in passing."""
        with translate_redis_errors():
            seconds, microseconds = await self.redis.time()
        self._synchronize(seconds + microseconds / 1_000_000)

    async def get(self, sandbox_id: str) -> Sandbox | None:
        return _record(await self._raw(sandbox_id))

    async def all(self) -> list[Sandbox]:
        """Every record, oldest first. Several reads: what is removed in between is left out, what is made may be."""
        with translate_redis_errors():
            ids = await self.redis.zrange(indexes.CREATED, 0, -1)
        return [
            record for record in await self._get_many([sandbox_id.decode() for sandbox_id in ids]) if record is not None
        ]

    async def history(self, sandbox_id: str) -> list[HistoryEntry]:
        """Newest last."""
        with translate_redis_errors():
            entries = await cast(Awaitable[list[bytes]], self.redis.lrange(_KEY + sandbox_id + _HISTORY, 0, -1))
        return [history.read_entry(raw) for raw in entries]

    async def append_history(
        self, sandbox_id: str, entries: Sequence[HistoryEntry], precondition: Precondition
    ) -> None:
        """Add to a sandbox' history what Kubernetes says; what it has said before moves to the end. Raises Fenced."""
        keys = [_KEY + sandbox_id, precondition.key, _KEY + sandbox_id + _HISTORY]
        words = [word for entry in entries for word in (history.encode_entry(entry), entry.dedup_key)]
        with translate_redis_errors():
            verdict = await self._tell(keys=keys, args=[precondition.value, *words])
        if verdict == b"fenced":
            raise PreconditionFailed(sandbox_id)

    async def page(self, selection: Selection, after: Cursor, limit: int) -> Page:
        """At most `limit` records of the selection that come after `after`, oldest first, and where to go on.

        Looks at no more than a few chunks of the narrowest index, so a page may be short or empty and yet not the last.
        """
        found: list[Sandbox] = []
        for _ in range(_PAGE_CHUNKS):
            places, is_end = await self._index_page(selection.smallest_index, after)
            for place, record in zip(places, await self._get_many([p.sandbox_id for p in places]), strict=True):
                after = place
                if record is not None and selection.matches(record):
                    found.append(record)
                if len(found) == limit:
                    return Page(found, after)
            if is_end:
                return Page(found, None)
        return Page(found, after)

    async def watch(self) -> AsyncIterator[str | None]:
        """The id of each sandbox that changes from now on; None whenever some may have been missed, as at the start.

        Raises StoreUnavailable when the subscription breaks.
        """
        async for message in subscribe(self.redis, CHANGES):
            yield None if message is None else message.decode(errors="replace")

    async def due(self, limit: int, skip: int = 0) -> list[Sandbox | None]:
        """At most `limit` records whose `due_at` has come, longest due first. None: gone by now, or unreadable."""
        with translate_redis_errors():
            ids = await self.redis.zrangebyscore(indexes.DEADLINE, "-inf", self.now(), start=skip, num=limit)
        return await self._get_many([sandbox_id.decode() for sandbox_id in ids])

    async def tombstone(self, sandbox_id: str) -> Tombstone | None:
        """Of a sandbox that has no record any more, if it had one lately."""
        with translate_redis_errors():
            raw = await self.redis.get(_KEY + sandbox_id + _TOMBSTONE)
        return msgspec.json.decode(raw, type=Tombstone) if raw else None

    async def change(
        self,
        sandbox_id: str,
        mutate: Mutate,
        *,
        believed: Sandbox | UnsetType | None = UNSET,
        precondition: Precondition | None = None,
    ) -> UpdateResult:
        """Take one atomic step.

        `believed` is the record as the caller last saw it: when that is still so, a read is saved; when it is not,
        nothing is lost but a round trip.

        Raises:
            StoreUnavailable: Redis does not answer; the step was taken or not, and may be tried again.
            Fenced: the guard does not hold; nothing was written.
            LimitReached: there is no room for one more; nothing was written.
            RecordUnreadable: what is there is no record of this version; nothing was written.
        """
        is_read = believed is UNSET
        raw = await self._raw(sandbox_id) if believed is UNSET else _bytes(believed)
        while True:
            current = _record(raw)
            change = mutate(current)
            if change is None and not is_read:
                raw, is_read = await self._raw(sandbox_id), True
                continue
            if change is None:
                return UpdateResult(current, written=False)
            wanted = change.record if change.silent else self._stamped(current, change.record)
            verdict, raw = await self._compare_and_set(sandbox_id, raw, change._replace(record=wanted), precondition)
            if verdict == b"done":
                metrics.record_transition(current, wanted)
                return UpdateResult(wanted, written=True)
            if verdict == b"fenced":
                raise PreconditionFailed(sandbox_id)
            if verdict == b"full":
                limit = change.limits[int(raw) - 1]
                raise LimitReached(limit.name, limit.maximum, await self._retry_after_seconds())
            is_read = True

    async def provisioning_workers(self, record: Sandbox) -> set[str]:
        """Names of the workers that have begun to make this life's Pod, and did not say that they have ended."""
        attempts = range(max(1, record.attempt - _MARKED_ATTEMPTS), record.attempt + 1)
        jobs = [Job(JobKind.PROVISION, record.id, record.incarnation, attempt) for attempt in attempts]
        with translate_redis_errors():
            marks = await self.redis.mget([queue.IN_PROGRESS_KEY + job.id for job in jobs])
        return {mark.decode() for mark in marks if mark}

    async def _retry_after_seconds(self) -> float:
        """As long as it took on average, lately, until a sandbox went; a minute when that is not known."""
        with translate_redis_errors():
            freed = await cast(Awaitable[list[bytes]], self.redis.lrange(_FREED, 0, -1))
        return (self.now() - float(freed[-1])) / len(freed) if freed else _MAX_WAIT_SECONDS

    async def _index_page(self, index: str, after: Cursor) -> tuple[list[Cursor], bool]:
        """The next entries of an index, and whether there are no more. Those of one time are ordered by id."""
        offset = 0
        while True:
            with translate_redis_errors():
                entries = await self.redis.zrangebyscore(
                    index, after.created_at, "+inf", start=offset, num=_INDEX_CHUNK, withscores=True
                )
            places = [Cursor(score, sandbox_id.decode()) for sandbox_id, score in entries]
            following = [place for place in places if place > after]
            if following or len(entries) < _INDEX_CHUNK:
                return following, len(entries) < _INDEX_CHUNK
            offset += _INDEX_CHUNK

    def _stamped(self, current: Sandbox | None, wanted: Sandbox | None) -> Sandbox | None:
        if wanted is None or current is None or current.token != wanted.token:
            return wanted
        return replace(wanted, revision=current.revision + 1, updated_at=self.now())

    async def _compare_and_set(
        self, sandbox_id: str, raw: bytes, change: Update, precondition: Precondition | None
    ) -> tuple[bytes, bytes]:
        current, wanted = _record(raw), change.record
        scores = indexes.index_updates(current, wanted)
        entries = [history.encode_entry(entry) for entry in history.entries_for(current, wanted, self.now())]
        record, its = _KEY + sandbox_id, (_KEY + sandbox_id + suffix for suffix in (_HISTORY, _TOMBSTONE))
        keys = [record, precondition.key if precondition else _NO_GUARD, *its, _FREED, *scores]
        arguments: list[str | bytes | float] = [
            sandbox_id,
            raw,
            _bytes(wanted),
            precondition.value if precondition else "",
        ]
        arguments += [_tombstone(current, wanted), "1" if _frees_capacity(current, wanted) else ""]
        arguments.append(len(change.limits))
        for limit in change.limits:
            arguments += [limit.maximum, len(limit.indexes), *limit.indexes]
        arguments += [len(entries), *entries, *scores.values()]
        for job in change.jobs:
            arguments += [job.id, job.payload(self.now()), job.score(self.now())]
        with translate_redis_errors():
            verdict, found, now = await self._step(keys=keys, args=arguments)
        self._synchronize(float(now))
        return verdict, found

    async def _raw(self, sandbox_id: str) -> bytes:
        with translate_redis_errors():
            return await self.redis.get(_KEY + sandbox_id) or b""

    async def _get_many(self, ids: Sequence[str]) -> list[Sandbox | None]:
        """One record an id; None: it is gone by now."""
        found: list[Sandbox | None] = []
        for start in range(0, len(ids), RECORD_CHUNK):
            with translate_redis_errors():
                raws = await self.redis.mget([_KEY + sandbox_id for sandbox_id in ids[start : start + RECORD_CHUNK]])
            found += [_readable(raw or b"") for raw in raws]
        return found


def _record(raw: bytes) -> Sandbox | None:
    """Raises RecordUnreadable: a later version wrote it, or somebody else."""
    try:
        return _decode(raw) if raw else None
    except msgspec.DecodeError as error:
        raise RecordUnreadable(raw, error) from error


def _readable(raw: bytes) -> Sandbox | None:
    """One record that cannot be read must not hide all others."""
    try:
        return _record(raw)
    except RecordUnreadable as error:
        log.warning("record left out", error=error.detail)
        return None


def _tombstone(current: Sandbox | None, wanted: Sandbox | None) -> bytes:
    """What a step does with it: a life that begins needs none, one that goes leaves one."""
    if wanted is not None and (current is None or current.token != wanted.token):
        return b"-"
    if wanted is None and current is not None:
        return _encode(Tombstone(current.incarnation, current.expired_at or 0.0, current.expired_by))
    return b""


def _frees_capacity(current: Sandbox | None, wanted: Sandbox | None) -> bool:
    return current is not None and current.is_active and not (wanted is not None and wanted.is_active)


def _bytes(record: Sandbox | None) -> bytes:
    return _encode(record) if record else b""
