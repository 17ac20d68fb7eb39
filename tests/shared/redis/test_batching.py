"""Batching: commands of one moment share a pipeline, and each caller gets its own reply or error."""

import asyncio

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from shared.errors import StoreUnavailable
from shared.redis.batching import PIPELINE_SIZE, BatchingRedis
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store

pytestmark = pytest.mark.anyio


async def reads(redis: BatchingRedis) -> int:
    """Return how often Redis has read from its clients."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_concurrent_commands_are_one_round_trip(valkey: BatchingRedis):
    await valkey.mset({f"k{number}": number for number in range(20)})
    reads_of_info = -await reads(valkey) + await reads(valkey)
    before = await reads(valkey)
    replies = await asyncio.gather(*(valkey.get(f"k{number}") for number in range(20)))
    assert replies == [str(number).encode() for number in range(20)]
    assert await reads(valkey) - before == reads_of_info + 1


async def test_more_commands_than_one_pipeline_holds_all_get_their_replies(valkey: BatchingRedis):
    count = 3 * PIPELINE_SIZE + 1
    replies = await asyncio.gather(*(valkey.incr("n") for _ in range(count)))
    assert sorted(replies) == list(range(1, count + 1))


async def test_failing_command_does_not_fail_the_others_of_its_pipeline(valkey: BatchingRedis):
    await valkey.set("text", "a")
    results = await asyncio.gather(
        valkey.get("text"), valkey.incr("text"), valkey.zcard("text"), valkey.get("none"), return_exceptions=True
    )
    assert [type(result) for result in results] == [bytes, ResponseError, ResponseError, type(None)]


async def test_write_refused_by_a_replica_is_retried_alone_and_reads_get_replies(valkey: BatchingRedis):
    """A Redis that was demoted to a replica refuses writes and answers reads."""
    await valkey.set("text", "a")
    await valkey.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        await valkey.execute_command("CONFIG", "SET", "replica-serve-stale-data", "yes")
        results = await asyncio.gather(valkey.get("text"), valkey.set("text", "b"), return_exceptions=True)
    finally:
        await valkey.execute_command("REPLICAOF", "NO", "ONE")
    assert [type(result) for result in results] == [bytes, ReadOnlyError]


async def test_refused_commands_are_retried_concurrently_after_the_other_replies(valkey: BatchingRedis):
    await valkey.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        writes = [asyncio.ensure_future(valkey.set(f"k{number}", "a")) for number in range(60)]
        assert await valkey.get("none") is None
        assert not any(write.done() for write in writes)
        results = await asyncio.gather(*writes, return_exceptions=True)
    finally:
        await valkey.execute_command("REPLICAOF", "NO", "ONE")
    assert {type(result) for result in results} == {ReadOnlyError}


async def test_command_that_cannot_be_encoded_does_not_stop_the_others(valkey: BatchingRedis):
    results = await asyncio.gather(
        valkey.set("a", "1"), valkey.set("b", "\ud800"), valkey.get("c"), return_exceptions=True
    )
    assert [type(result) for result in results] == [bool, UnicodeEncodeError, type(None)]
    assert await valkey.get("a") == b"1"


async def test_close_cancels_running_pipelines_and_their_callers(valkey_url: str):
    redis = connect(read_settings({"REDIS_URL": valkey_url}), FAIL_FAST)
    before = asyncio.all_tasks()
    callers = {asyncio.ensure_future(redis.get("a")) for _ in range(2)}
    while not asyncio.all_tasks() - before - callers:  # until the pipeline is a task, too
        await asyncio.sleep(0)
    await redis.aclose()
    assert asyncio.all_tasks() - before <= callers
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, asyncio.CancelledError]


async def test_cancelled_caller_takes_nothing_from_the_others(valkey: BatchingRedis):
    await valkey.set("text", "a")
    cancelled, other = (asyncio.ensure_future(valkey.get("text")) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await other == b"a"
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_each_caller_gets_an_error_if_redis_is_down(away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        store = Store(redis)
        results = await asyncio.gather(store.get("a"), store.get("b"), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
