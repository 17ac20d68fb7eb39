"""Commands of one moment go to Redis in one pipeline, and each answer, or error, to whoever asked."""

import asyncio

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from shared.batching import AT_ONCE, BatchingRedis
from shared.connection import PROMPT, connect
from shared.errors import StoreUnavailable
from shared.settings import read_settings
from shared.store import Store

pytestmark = pytest.mark.anyio


async def reads(redis: BatchingRedis) -> int:
    """How often Redis has read from its clients."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_commands_of_one_moment_are_one_round_trip(valkey: BatchingRedis):
    await valkey.mset({f"k{number}": number for number in range(20)})
    apart = -await reads(valkey) + await reads(valkey)
    before = await reads(valkey)
    answers = await asyncio.gather(*(valkey.get(f"k{number}") for number in range(20)))
    assert answers == [str(number).encode() for number in range(20)]
    assert await reads(valkey) - before == apart + 1


async def test_more_than_a_pipeline_holds(valkey: BatchingRedis):
    count = 3 * AT_ONCE + 1
    answers = await asyncio.gather(*(valkey.incr("n") for _ in range(count)))
    assert sorted(answers) == list(range(1, count + 1))


async def test_an_error_is_its_own_commands(valkey: BatchingRedis):
    """Those beside it in the pipeline have their answers."""
    await valkey.set("text", "a")
    outcomes = await asyncio.gather(
        valkey.get("text"), valkey.incr("text"), valkey.zcard("text"), valkey.get("none"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [bytes, ResponseError, ResponseError, type(None)]


async def test_what_is_refused_for_now_is_tried_as_a_command_alone_is(valkey: BatchingRedis):
    """A Redis that was demoted refuses to write; it reads."""
    await valkey.set("text", "a")
    await valkey.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        await valkey.execute_command("CONFIG", "SET", "replica-serve-stale-data", "yes")
        outcomes = await asyncio.gather(valkey.get("text"), valkey.set("text", "b"), return_exceptions=True)
    finally:
        await valkey.execute_command("REPLICAOF", "NO", "ONE")
    assert [type(outcome) for outcome in outcomes] == [bytes, ReadOnlyError]


async def test_who_gives_up_takes_nothing_from_the_others(valkey: BatchingRedis):
    await valkey.set("text", "a")
    gives_up, stays = (asyncio.ensure_future(valkey.get("text")) for _ in range(2))
    await asyncio.sleep(0)
    gives_up.cancel()
    assert await stays == b"a"
    with pytest.raises(asyncio.CancelledError):
        await gives_up


async def test_each_is_told_that_redis_is_away(away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), PROMPT) as redis:
        store = Store(redis)
        outcomes = await asyncio.gather(store.get("a"), store.get("b"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
