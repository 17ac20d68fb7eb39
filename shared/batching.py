"""A client whose commands of one moment are one pipeline: under load, a round trip costs more than all else they do.

No order is promised between them, as there is none between the connections that they would have had otherwise.
"""

import asyncio
from typing import Any, NamedTuple

from arq.connections import ArqRedis
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError

AT_ONCE = 100
"""Commands in one pipeline: so few that the first answers do not wait long for the last."""
_AGAIN = (BusyLoadingError, ReadOnlyError)
"""What the client forgives a single command, and not one of a pipeline."""


class _Command(NamedTuple):
    words: tuple[Any, ...]
    options: dict[str, Any]
    answer: asyncio.Future[Any]


class BatchingRedis(ArqRedis):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asked: list[_Command] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's own. Of several commands none is stopped when whoever asked for it stops waiting."""
        command = _Command(args, options, asyncio.get_running_loop().create_future())
        self._asked.append(command)
        if len(self._asked) > 1:
            return await command.answer
        try:
            await asyncio.sleep(0)  # all that are ready to run ask, too; what comes later may depend on these
        finally:
            asked, self._asked = self._asked, []
            if len(asked) > 1:
                self._begin(asked)
        return await (command.answer if len(asked) > 1 else self._alone(command))

    def _begin(self, asked: list[_Command]) -> None:
        for start in range(0, len(asked), AT_ONCE):
            task = asyncio.get_running_loop().create_task(self._answer(asked[start : start + AT_ONCE]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: list[_Command]) -> None:
        """An answer that is done already is one that nobody waits for any more."""
        try:
            found = await self._executed(asked)
        except BaseException as error:
            for command in asked:
                _fail(command.answer, error)
            if not isinstance(error, Exception):
                raise
        else:
            for command, value in zip(asked, found, strict=True):
                _settle(command.answer, value)

    async def _executed(self, asked: list[_Command]) -> list[Any]:
        """An answer each; an exception where Redis refused."""
        pipeline = self.pipeline(transaction=False)
        for command in asked:
            pipeline.execute_command(*command.words, **command.options)
        found: list[Any] = await pipeline.execute(raise_on_error=False)
        for place, value in enumerate(found):
            if isinstance(value, _AGAIN):
                found[place] = await self._again(asked[place])
        return found

    async def _again(self, command: _Command) -> Any:
        try:
            return await self._alone(command)
        except RedisError as error:
            return error

    async def _alone(self, command: _Command) -> Any:
        return await super().execute_command(*command.words, **command.options)  # type: ignore[no-untyped-call]


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if isinstance(value, Exception):
        _fail(answer, value)
    elif not answer.done():
        answer.set_result(value)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    elif not answer.done():
        answer.set_exception(error)
