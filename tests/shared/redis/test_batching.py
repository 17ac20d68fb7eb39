"""Commands of one moment go to Redis in one pipeline, and each answer, or error, to whoever asked."""

import asyncio

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from shared.errors import StoreUnavailable
from shared.redis.batching import AT_ONCE, BatchingRedis
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store

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


async def test_many_that_are_refused_keep_nobody_waiting(valkey: BatchingRedis):
    """What Redis has answered is told before any is tried again, and those are tried side by side."""
    await valkey.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        writes = [asyncio.ensure_future(valkey.set(f"k{number}", "a")) for number in range(60)]
        assert await valkey.get("none") is None
        assert not any(write.done() for write in writes)
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
    finally:
        await valkey.execute_command("REPLICAOF", "NO", "ONE")
    assert {type(outcome) for outcome in outcomes} == {ReadOnlyError}


async def test_one_that_cannot_be_sent(valkey: BatchingRedis):
    """Those beside it are."""
    outcomes = await asyncio.gather(
        valkey.set("a", "1"), valkey.set("b", "\ud800"), valkey.get("c"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [bool, UnicodeEncodeError, type(None)]
    assert await valkey.get("a") == b"1"


async def test_closed_with_commands_under_way(valkey_url: str):
    """Nothing of them is left."""
    redis = connect(read_settings({"REDIS_URL": valkey_url}), FAIL_FAST)
    asked = [asyncio.ensure_future(redis.get("a")) for _ in range(2)]
    while not redis._tasks:
        await asyncio.sleep(0)
    await redis.aclose()
    assert not redis._tasks
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, asyncio.CancelledError]


async def test_who_gives_up_takes_nothing_from_the_others(valkey: BatchingRedis):
    await valkey.set("text", "a")
    gives_up, stays = (asyncio.ensure_future(valkey.get("text")) for _ in range(2))
    await asyncio.sleep(0)
    gives_up.cancel()
    assert await stays == b"a"
    with pytest.raises(asyncio.CancelledError):
        await gives_up


async def test_each_is_told_that_redis_is_away(away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        store = Store(redis)
        outcomes = await asyncio.gather(store.get("a"), store.get("b"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
