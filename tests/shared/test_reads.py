"""Reads of one moment go to Redis as one command, and each answer to whoever asked."""

import asyncio
from collections import Counter

import pytest
from redis.exceptions import ConnectionError as Lost

from shared.reads import Reads

pytestmark = pytest.mark.anyio


class Redis:
    """Answers when it is told to, and keeps what it was asked for."""

    def __init__(self, held: dict[str, bytes], error: Exception | None = None) -> None:
        self.held = held
        self.error = error
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        self.asked.append(keys)
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return [self.held.get(key) for key in keys]


async def test_reads_of_one_moment_are_one_command():
    redis = Redis({"a": b"1", "b": b"2"})
    reads = Reads(redis)  # type: ignore[arg-type]
    answers = await asyncio.gather(*(reads.get(key) for key in ["a", "b", "a", "none"]))
    assert answers == [b"1", b"2", b"1", None]
    assert redis.asked == [["a", "b", "a", "none"]]


async def test_a_read_sees_what_was_written_before_it_was_asked_for():
    """It never joins a command that is under way."""
    redis = Redis({"a": b"old"})
    redis.may_answer.clear()
    reads = Reads(redis)  # type: ignore[arg-type]
    first = asyncio.ensure_future(reads.get("a"))
    while not redis.asked:
        await asyncio.sleep(0)
    second = asyncio.ensure_future(reads.get("a"))
    while len(redis.asked) == 1:
        await asyncio.sleep(0)
    redis.may_answer.set()
    assert Counter(map(len, redis.asked)) == {1: 2}
    assert [await first, await second] == [b"old", b"old"]


async def test_each_who_waits_is_told_of_an_error():
    reads = Reads(Redis({}, Lost("away")))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(reads.get("a"), reads.get("b"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Lost, Lost]


async def test_who_gives_up_takes_nothing_from_the_others():
    redis = Redis({"a": b"1", "b": b"2"})
    redis.may_answer.clear()
    reads = Reads(redis)  # type: ignore[arg-type]
    gives_up, stays = asyncio.ensure_future(reads.get("a")), asyncio.ensure_future(reads.get("b"))
    while not redis.asked:
        await asyncio.sleep(0)
    gives_up.cancel()
    redis.may_answer.set()
    assert await stays == b"2"
    with pytest.raises(asyncio.CancelledError):
        await gives_up
