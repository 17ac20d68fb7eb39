"""Reads of one moment, as one command: under load a round trip costs more than all else that a read does."""

import asyncio
from typing import NamedTuple

from redis.asyncio import Redis


class _Read(NamedTuple):
    key: str
    answer: asyncio.Future[bytes | None]


class Reads:
    """Lives as long as the `redis` it is given."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._asked: list[_Read] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        """What Redis' GET says at some moment after this call. Raises what the client raises."""
        read = _Read(key, asyncio.get_running_loop().create_future())
        self._asked.append(read)
        if len(self._asked) == 1:
            asyncio.get_running_loop().call_soon(self._send)
        return await read.answer

    def _send(self) -> None:
        """Once all that are ready to run have asked: a read that comes later might not see what was written by then."""
        asked, self._asked = self._asked, []
        task = asyncio.get_running_loop().create_task(self._answer(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: list[_Read]) -> None:
        """An answer that is done already is one that nobody waits for any more."""
        try:
            found = await self._redis.mget([read.key for read in asked])
        except BaseException as error:
            for read in asked:
                _fail(read.answer, error)
            if not isinstance(error, Exception):
                raise
        else:
            for read, raw in zip(asked, found, strict=True):
                if not read.answer.done():
                    read.answer.set_result(raw)


def _fail(answer: asyncio.Future[bytes | None], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    elif not answer.done():
        answer.set_exception(error)
