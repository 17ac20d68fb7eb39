"""Contents of Redis in a form that tests compare."""

from collections.abc import Awaitable, Iterable
from typing import Any, cast
from unittest.mock import ANY

import msgspec
from redis.asyncio import Redis

from shared.sandbox.history import read_entry
from shared.sandbox.record import Sandbox
from shared.store import keys

Contents = dict[str, Any]


async def contents_of(redis: Redis) -> Contents:
    """Return each key with its value: records and histories decoded, sorted sets with scores. Leave out tombstones."""
    names = [raw.decode() for raw in await redis.keys()]
    return {name: await _value(redis, name) for name in sorted(names) if not name.endswith(":tombstone")}


async def _value(redis: Redis, name: str) -> Any:
    if name == keys.FREED:
        return await entries_of(redis, name)
    if await redis.type(name) == b"zset":
        return {member.decode(): score for member, score in await redis.zrange(name, 0, -1, withscores=True)}
    if name.endswith(":history"):
        return [read_entry(raw) for raw in await entries_of(redis, name)]
    if name.startswith("sandbox:"):
        return msgspec.json.decode(await redis.get(name), type=Sandbox)
    return await redis.get(name)


async def entries_of(redis: Redis, name: str) -> list[bytes]:
    """Return the entries of a list."""
    return await cast(Awaitable[list[bytes]], redis.lrange(name, 0, -1))


async def record_contents_of(redis: Redis) -> Contents:
    """Return the contents without jobs, and without the times at which sandboxes ended."""
    contents = await contents_of(redis)
    return {name: value for name, value in contents.items() if not name.startswith("arq:") and name != keys.FREED}


def expected_contents(records: Iterable[Sandbox]) -> Contents:
    """Return what `record_contents_of` must return for these records. Each record has some history."""
    expected: Contents = {}
    for record in records:
        expected[keys.record(record.id)] = record
        expected[keys.history(record.id)] = ANY
        indexes = [keys.CREATED, keys.STATUS + record.status, keys.USER + record.spec.user_id]
        for index in (*indexes, *([keys.LIVE + record.spec.user_id] if record.is_active else [])):
            expected.setdefault(index, {})[record.id] = record.created_at
        if record.due_at is not None:
            expected.setdefault(keys.DEADLINE, {})[record.id] = record.due_at
    return expected
