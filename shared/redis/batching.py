"""A client whose commands of one moment are one pipeline: under load, a round trip costs more than all else they do.

No order is promised between them, as there is none between the connections that they would have had otherwise.
"""

import asyncio
from functools import partial
from typing import Any, NamedTuple

from arq.connections import ArqRedis
from redis.exceptions import DataError, ReadOnlyError

AT_ONCE = 100
"""Commands in one pipeline: so few that the first answers do not wait long for the last."""


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
            await asyncio.sleep(0)  # all that are ready to run ask, too
            await asyncio.sleep(0)  # and all whose requests have come by then; what comes later may depend on these
        finally:
            asked, self._asked = self._asked, []
            if len(asked) > 1:
                self._begin(asked)
        return await (command.answer if len(asked) > 1 else self._alone(command))

    def _begin(self, asked: list[_Command]) -> None:
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            task = asyncio.get_running_loop().create_task(self._answer(some))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, some))

    def _ended(self, asked: list[_Command], task: asyncio.Task[None]) -> None:
        """Nobody is left waiting for a task that was cancelled, perhaps before it began."""
        self._tasks.discard(task)
        if task.cancelled():
            for command in asked:
                command.answer.cancel()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """What is under way is given up first: it would open connections that nobody closes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().aclose(close_connection_pool)

    async def _answer(self, asked: list[_Command]) -> None:
        """Each command ends as it would alone. An answer that is done already is one that nobody waits for any more."""
        try:
            found = await self._pipeline(asked)
        except (DataError, UnicodeError):  # one of them cannot be sent, and so none was
            await self._one_by_one(asked)
        except Exception as error:  # noqa: BLE001 - each of those who wait is to have it
            for command in asked:
                _settle(command.answer, error)
        else:
            refused = [command for command, value in zip(asked, found, strict=True) if isinstance(value, ReadOnlyError)]
            for command, value in zip(asked, found, strict=True):
                if command not in refused:
                    _settle(command.answer, value)
            await self._one_by_one(refused)  # a Redis that was demoted: the client may find another, for one alone

    async def _pipeline(self, asked: list[_Command]) -> list[Any]:
        """An answer each; an exception where Redis refused."""
        pipeline = self.pipeline(transaction=False)
        for command in asked:
            pipeline.execute_command(*command.words, **command.options)
        found: list[Any] = await pipeline.execute(raise_on_error=False)
        return found

    async def _one_by_one(self, asked: list[_Command]) -> None:
        """At once, and each for itself."""
        outcomes = await asyncio.gather(*map(self._alone, asked), return_exceptions=True)
        for command, outcome in zip(asked, outcomes, strict=True):
            _settle(command.answer, outcome)

    async def _alone(self, command: _Command) -> Any:
        return await super().execute_command(*command.words, **command.options)  # type: ignore[no-untyped-call]


def _settle(answer: asyncio.Future[Any], outcome: Any) -> None:
    if answer.done():
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
