"""A Redis client that sends commands of the same moment in one pipeline.

Under load, round trips cost more than everything else. Commands in one pipeline may run in any order, as if they were
sent on separate connections.
"""

import asyncio
from functools import partial
from typing import Any, NamedTuple

from arq.connections import ArqRedis
from redis.exceptions import DataError, ReadOnlyError

PIPELINE_SIZE = 100
"""Commands in one pipeline. In a longer pipeline the first command would wait long for the last reply."""


class _Command(NamedTuple):
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    reply: asyncio.Future[Any]


class BatchingRedis(ArqRedis):
    """`arq.ArqRedis` with an `execute_command` that batches. Pipelines and subscriptions are not batched."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending: list[_Command] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command as redis-py does, but together with others.

        Cancelling a caller does not cancel a command that is already part of a batch.
        """
        command = _Command(args, options, asyncio.get_running_loop().create_future())
        self._pending.append(command)
        if len(self._pending) > 1:
            return await command.reply
        try:
            await asyncio.sleep(0)  # tasks that are ready to run add their commands
            await asyncio.sleep(0)  # and so do tasks woken by bytes that have arrived by now
        finally:
            batch, self._pending = self._pending, []
            if len(batch) > 1:
                self._start(batch)
        return await (command.reply if len(batch) > 1 else self._execute_alone(command))

    def _start(self, batch: list[_Command]) -> None:
        for start in range(0, len(batch), PIPELINE_SIZE):
            commands = batch[start : start + PIPELINE_SIZE]
            task = asyncio.get_running_loop().create_task(self._execute(commands))
            self._tasks.add(task)
            task.add_done_callback(partial(self._finish, commands))

    def _finish(self, commands: list[_Command], task: asyncio.Task[None]) -> None:
        """Cancel the waiting callers of a cancelled task. The task may not have run at all."""
        self._tasks.discard(task)
        if task.cancelled():
            for command in commands:
                command.reply.cancel()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Cancel running pipelines first. They would open connections that nothing closes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().aclose(close_connection_pool)

    async def _execute(self, commands: list[_Command]) -> None:
        """Give each command the result that it would have on its own."""
        try:
            replies = await self._execute_pipeline(commands)
        except (DataError, UnicodeError):  # one command cannot be encoded, so none was sent
            await self._execute_separately(commands)
        except Exception as error:  # noqa: BLE001 - each caller gets the error
            for command in commands:
                _settle(command.reply, error)
        else:
            pairs = list(zip(commands, replies, strict=True))
            refused = [command for command, reply in pairs if isinstance(reply, ReadOnlyError)]
            for command, reply in pairs:
                if not isinstance(reply, ReadOnlyError):
                    _settle(command.reply, reply)
            # The server was demoted to a replica. On its own, a command is retried and may find the new master.
            await self._execute_separately(refused)

    async def _execute_pipeline(self, commands: list[_Command]) -> list[Any]:
        """Return a reply for each command, or the exception with which Redis refused it."""
        pipeline = self.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command.arguments, **command.options)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _execute_separately(self, commands: list[_Command]) -> None:
        results = await asyncio.gather(*map(self._execute_alone, commands), return_exceptions=True)
        for command, result in zip(commands, results, strict=True):
            _settle(command.reply, result)

    async def _execute_alone(self, command: _Command) -> Any:
        return await super().execute_command(*command.arguments, **command.options)  # type: ignore[no-untyped-call]


def _settle(reply: asyncio.Future[Any], result: Any) -> None:
    """Complete `reply`, unless its caller has stopped waiting."""
    if reply.done():
        return
    if isinstance(result, BaseException):
        reply.set_exception(result)
    else:
        reply.set_result(result)
