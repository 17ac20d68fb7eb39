"""Connections and pools of redis-py, without its traps: lost cancellations, nested retries, unbounded connects."""

import asyncio
import builtins
from typing import Any

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError  # noqa: A004 - redis-py's name hides a built-in name

_ONCE = Retry(NoBackoff(), retries=0)


class CancelSafeConnection(AbstractConnection):
    """Connection whose sends can be cancelled at any time, and whose `connect` tries once.

    redis-py sends under `asyncio.wait_for`. Before Python 3.12, `wait_for` can lose a cancellation, and a process that
    stops would hang. This class enforces the same timeout with `asyncio.timeout`, which loses none.

    The pool and the command retry already. With Sentinels, a retry in `connect` would try a dead master again instead
    of asking for the new one.
    """

    async def connect(self) -> None:
        retry, self.retry = self.retry, _ONCE
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        finally:
            self.retry = retry

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit


class HandshakeRetryPool(ConnectionPool):
    """Pool that also retries the handshake of a connection.

    redis-py retries connecting and commands, but not the handshake between the two. A proxy in front of a dead Redis
    drops the connection during the handshake.

    `connect_seconds` limits the time of all tries. The pool opens one connection after the other, so without a limit
    the first caller of a silent Redis would hold up all others.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection] = Connection,
        *,
        connect_seconds: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(type(connection_class.__name__, (CancelSafeConnection, connection_class), {}), **options)
        self._connect_seconds = connect_seconds

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection: AbstractConnection = await super().get_connection()
                return connection
        except builtins.TimeoutError as error:
            raise TimeoutError("Timeout connecting to server") from error

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        async def ensure() -> None:
            await super(HandshakeRetryPool, self).ensure_connection(connection)

        await connection.retry.call_with_retry(ensure, lambda _: connection.disconnect())
