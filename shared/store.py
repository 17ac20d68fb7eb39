"""The records in Redis: the only reader and writer of their keys.

| key | type | holds |
|---|---|---|
| `sandbox:{id}` | string | the record, JSON |
| `sandboxes:created` | sorted set | id → `created_at` |
| `sandboxes:deadline` | sorted set | id → when somebody must look again |
| `sandboxes:status:{status}` | sorted set | id → `created_at` |
| `sandboxes:user:{user_id}` | sorted set | id → `created_at` |
| `sandboxes:changes` | channel | the id of each record that changed |

Every change is one atomic step: read, apply a pure function, write if nobody wrote since, and in the same step the
indexes, the job that the change asks for, and one publish. A step that was carried out but whose answer was lost may be
sent again: the record is then no longer the one it was based on, so the function sees its own work and says so.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import queue
from shared.errors import StoreUnavailable
from shared.queue import Job, Work
from shared.sandbox import Sandbox

Clock = Callable[[], float]
"""Seconds since the epoch; tests own it."""

CREATED = "sandboxes:created"
DEADLINE = "sandboxes:deadline"
STATUS = "sandboxes:status:"
USER = "sandboxes:user:"
CHANGES = "sandboxes:changes"

_KEY = "sandbox:"
_NO_GUARD = "-"
_LIST_CHUNK = 500
"""Records a read: so few that Redis answers others in between."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Sandbox).decode

_STEP = """
-- KEYS: record, guard, index…
-- ARGV: id, record expected, record wanted, guard's value, score per index…, (id, payload, due time) per job…
local raw = redis.call('GET', KEYS[1]) or ''
if raw ~= ARGV[2] then return {'raced', raw} end
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return {'fenced', raw} end
if ARGV[3] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[3]) end
for i = 3, #KEYS do
  local score = ARGV[i + 2]
  if score == '' then redis.call('ZREM', KEYS[i], ARGV[1]) else redis.call('ZADD', KEYS[i], score, ARGV[1]) end
end
for i = #KEYS + 3, #ARGV, 3 do
  redis.call('SET', 'JOB_KEY' .. ARGV[i], ARGV[i + 1], 'PX', EXPIRES_MS)
  redis.call('ZADD', 'QUEUE', ARGV[i + 2], ARGV[i])
end
redis.call('PUBLISH', 'CHANGES', ARGV[1])
return {'done', ''}
"""
for _name, _value in {
    "JOB_KEY": queue.JOB_KEY,
    "EXPIRES_MS": queue.EXPIRES_MS,
    "QUEUE": queue.QUEUE,
    "CHANGES": CHANGES,
}.items():
    _STEP = _STEP.replace(_name, str(_value))


class Change(NamedTuple):
    """What one atomic step writes: the next record (None removes it), and the jobs it asks for."""

    record: Sandbox | None
    jobs: tuple[Job, ...] = ()


Move = Callable[[Sandbox | None], Change | None]
"""Pure: the record as it is → what to write, or None to leave it. Called again when somebody else was faster."""


class Guard(NamedTuple):
    """The step is refused unless `key` holds `value`: how a lease fences off its former holder."""

    key: str
    value: str


class Outcome(NamedTuple):
    """The record in force after a change, and whether this call wrote it."""

    record: Sandbox | None
    written: bool


class Fenced(Exception):
    """The guard no longer holds: whoever writes is no longer entitled to."""


class Store:
    """Lives as long as the `redis` it is given, which whoever opened it closes."""

    def __init__(self, redis: Redis, clock: Clock = time.time) -> None:
        self._redis = redis
        self._step = redis.register_script(_STEP)
        self._clock = clock

    def now(self) -> float:
        return self._clock()

    async def get(self, sandbox_id: str) -> Sandbox | None:
        return _record(await self._raw(sandbox_id))

    async def all(self) -> list[Sandbox]:
        """Every record, oldest first. Several reads: what is removed in between is left out, what is made may be."""
        with _unavailable():
            ids = await self._redis.zrange(CREATED, 0, -1)
        found: list[Sandbox] = []
        for start in range(0, len(ids), _LIST_CHUNK):
            found += await self._many(ids[start : start + _LIST_CHUNK])
        return found

    async def due(self, limit: int) -> list[str]:
        """Ids of at most `limit` records whose `due_at` has come, longest due first."""
        with _unavailable():
            ids = await self._redis.zrangebyscore(DEADLINE, "-inf", self.now(), start=0, num=limit)
        return [sandbox_id.decode() for sandbox_id in ids]

    async def change(
        self,
        sandbox_id: str,
        move: Move,
        *,
        believed: Sandbox | UnsetType | None = UNSET,
        guard: Guard | None = None,
    ) -> Outcome:
        """Take one atomic step.

        `believed` is the record as the caller last saw it: when that is still so, a read is saved; when it is not,
        nothing is lost but a round trip.

        Raises:
            StoreUnavailable: Redis does not answer; the step was taken or not, and may be tried again.
            Fenced: the guard does not hold; nothing was written.
        """
        raw = await self._raw(sandbox_id) if believed is UNSET else _bytes(believed)
        while True:
            current = _record(raw)
            change = move(current)
            if change is None:
                return Outcome(current, written=False)
            wanted = self._stamped(current, change.record)
            verdict, raw = await self._try(sandbox_id, raw, Change(wanted, change.jobs), guard)
            if verdict == b"done":
                return Outcome(wanted, written=True)
            if verdict == b"fenced":
                raise Fenced(sandbox_id)

    async def is_provisioning(self, record: Sandbox) -> bool:
        """Whether a worker may be in the middle of making this life's Pod.

        True also for a while after that worker was killed: until arq's mark of it ends.
        """
        attempts = range(1, record.attempt + 1)
        jobs = [Job(Work.PROVISION, record.id, record.life, attempt) for attempt in attempts]
        with _unavailable():
            return bool(await self._redis.exists(*(queue.IN_PROGRESS_KEY + job.id for job in jobs)))

    def _stamped(self, current: Sandbox | None, wanted: Sandbox | None) -> Sandbox | None:
        if wanted is None or current is None or current.token != wanted.token:
            return wanted
        return replace(wanted, revision=current.revision + 1, updated_at=self.now())

    async def _try(self, sandbox_id: str, raw: bytes, change: Change, guard: Guard | None) -> tuple[bytes, bytes]:
        scores = _scores(_record(raw), change.record)
        keys = [_KEY + sandbox_id, guard.key if guard else _NO_GUARD, *scores]
        arguments: list[str | bytes | float] = [sandbox_id, raw, _bytes(change.record), guard.value if guard else ""]
        arguments += scores.values()
        for job in change.jobs:
            arguments += [job.id, job.payload(self.now()), int(self.now() * 1000)]
        with _unavailable():
            verdict, found = await self._step(keys=keys, args=arguments)
        return verdict, found

    async def _raw(self, sandbox_id: str) -> bytes:
        with _unavailable():
            return await self._redis.get(_KEY + sandbox_id) or b""

    async def _many(self, ids: Sequence[bytes]) -> list[Sandbox]:
        with _unavailable():
            raws = await self._redis.mget([_KEY.encode() + i for i in ids])
        return [_decode(raw) for raw in raws if raw]


def _scores(current: Sandbox | None, wanted: Sandbox | None) -> dict[str, float | str]:
    """Each index that the step touches, with the sandbox's score in it; empty: it leaves that index."""
    before, after = _indexes(current), _indexes(wanted)
    scores: dict[str, float | str] = dict.fromkeys(before.keys() - after.keys(), "")
    scores.update({key: score for key, score in after.items() if before.get(key) != score})
    return scores


def _indexes(record: Sandbox | None) -> dict[str, float]:
    if record is None:
        return {}
    indexes = {
        CREATED: record.created_at,
        STATUS + record.status: record.created_at,
        USER + record.spec.user_id: record.created_at,
    }
    if record.due_at is not None:
        indexes[DEADLINE] = record.due_at
    return indexes


def _record(raw: bytes) -> Sandbox | None:
    return _decode(raw) if raw else None


def _bytes(record: Sandbox | None) -> bytes:
    return _encode(record) if record else b""


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Redis' exceptions stop here."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(error) from error
