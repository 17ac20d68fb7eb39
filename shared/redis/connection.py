"""Connections to Redis by URL, socket or Sentinel. No other module opens a connection."""

import asyncio
import builtins
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, cast

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import (  # names of redis-py that hide built-in names
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    ReadOnlyError,
    TimeoutError,  # noqa: A004
)

from shared.queue import job
from shared.redis.batching import BatchingRedis
from shared.redis.calls import CALL_SECONDS, translate_redis_errors
from shared.settings import Settings


class CappedBackoff(ExponentialBackoff):
    """Backoff for any number of failures. redis-py's own raises OverflowError at the 1024th, after 17 minutes."""

    def compute(self, failures: int) -> float:
        return super().compute(min(failures, 16))


FAIL_FAST = Retry(CappedBackoff(cap=0.2, base=0.02), retries=2)
"""Retries of a request. A restart of Redis is hidden, and `redis_call` limits the time of all tries together."""
RETRY_FOREVER = Retry(CappedBackoff(cap=1.0, base=0.02), retries=-1)
"""Retries of arq's loop. A worker outlives an outage of Redis, and goes on within a second of its end."""

_ONCE = Retry(NoBackoff(), retries=0)
_TRANSIENT = [ConnectionError, TimeoutError, OSError, BusyLoadingError, ReadOnlyError]
"""Redis is down (OSError: before there is a connection), slow, still loading its data, or demoted to a replica."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Idle seconds before a probe, seconds between probes, and probes without a reply. A subscription can be silent for
hours, and must notice within 25 s that the host of Redis is gone."""
_SUBSCRIPTION_SECONDS = 3600.0
"""Timeout of one read of a subscription. Silence is normal and no reason for a new subscription."""
_SERVER_OPTIONS = frozenset({"host", "port", "path", "connection_class"})
"""Options of a URL that name one server. With Sentinels, the Sentinels name the server."""


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


class SentinelPool(SentinelConnectionPool, HandshakeRetryPool):
    """Pool that closes its connections to the Sentinels too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


async def subscribe(redis: Redis, channel: str) -> AsyncIterator[bytes | None]:
    """Yield the messages of a channel, and None whenever messages may have been missed, for example at the start.

    Raises:
        StoreUnavailable: the subscription broke.
    """
    with translate_redis_errors():
        async with redis.pubsub() as subscription:
            async with asyncio.timeout(CALL_SECONDS):
                await subscription.subscribe(channel)
            if (message := await subscription.get_message(timeout=CALL_SECONDS)) is None:
                raise TimeoutError("the subscription is not confirmed")
            while True:
                yield message["data"] if message["type"] == "message" else None
                message = await _next_message(subscription)


async def _next_message(subscription: PubSub) -> dict[str, Any]:
    """Return the next message, after any time.

    redis-py returns None if nothing came in time, but also if the kernel gave up the connection: since Python 3.11,
    its ETIMEDOUT is the class of an elapsed timeout. Then each further read would return None without a pause.

    Raises:
        ConnectionError: the connection is broken.
    """
    message: dict[str, Any] | None = None
    while message is None:
        began_at = time.monotonic()
        message = await subscription.get_message(timeout=_SUBSCRIPTION_SECONDS)
        if message is None and time.monotonic() - began_at < _SUBSCRIPTION_SECONDS:
            raise ConnectionError("the subscription is broken")
    return message


def connect(settings: Settings, retry: Retry) -> BatchingRedis:
    """Return a client that connects at its first command. Close the client with `aclose()`.

    Retries are safe, because each step of this service and of arq may run twice (see `shared.store.store`).
    """
    options: dict[str, Any] = {
        "retry": retry,
        "retry_on_error": _TRANSIENT,
        "socket_timeout": CALL_SECONDS if retry is FAIL_FAST else 5.0,
        "socket_connect_timeout": 1.0,
        "connect_seconds": CALL_SECONDS if retry is FAIL_FAST else None,
    }
    if not settings.redis_url.startswith("unix:"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    pool = (
        _sentinel_pool(settings, options)
        if settings.redis_sentinels
        else HandshakeRetryPool.from_url(settings.redis_url, **options)
    )
    client = cast(BatchingRedis, BatchingRedis.from_pool(pool))
    client.job_serializer, client.job_deserializer = job.encode, job.decode
    return client


def _sentinel_pool(settings: Settings, options: dict[str, Any]) -> SentinelPool:
    """Open a pool with database, credentials and TLS of `REDIS_URL`, and the master that the Sentinels name."""
    parsed = parse_url(settings.redis_url)  # type: ignore[no-untyped-call]
    url_options = {name: value for name, value in parsed.items() if name not in _SERVER_OPTIONS}
    hosts = [part.strip().rpartition(":") for part in settings.redis_sentinels.split(",")]
    sentinel = Sentinel([(host, int(port)) for host, _, port in hosts], **options)  # type: ignore[no-untyped-call]
    return SentinelPool(  # type: ignore[no-untyped-call]
        settings.redis_sentinel_master,
        sentinel,
        ssl=settings.redis_url.startswith("rediss:"),
        check_connection=False,
        **options,
        **url_options,
    )
