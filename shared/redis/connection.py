"""The one place that opens a connection to Redis, however it is named: URL, socket or Sentinel."""

import asyncio
import builtins
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.connection import parse_url
from redis.exceptions import (  # redis' own names
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from shared import metrics
from shared.errors import StoreUnavailable
from shared.queue import job
from shared.redis.batching import BatchingRedis
from shared.settings import Settings

FAIL_FAST = Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=2)
"""For a request: a stale connection is forgiven (Redis was restarted); a Redis that is away is said within a second."""
RETRY_FOREVER = Retry(ExponentialBackoff(cap=1.0, base=0.02), retries=-1)
"""For arq's loop: no worker exits because Redis does; it goes on within a second of its return."""

_TRANSIENT = [ConnectionError, TimeoutError, OSError, BusyLoadingError, ReadOnlyError]
"""Away (OSError: before there is a connection at all), slow, still reading its append-only file, or demoted."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""A subscription hears nothing for hours, and is to notice within 25 s that its Redis' host has vanished: seconds of
silence before asking, between askings, and how many of them stay unanswered."""
_HEARING_SECONDS = 3600.0
"""A subscription hears nothing for as long as nothing happens; that is no reason to begin another."""
_OF_A_SERVER = frozenset({"host", "port", "path", "connection_class"})
"""What a URL says of one server, and Sentinels say of the master."""


class CancelSafeConnection(AbstractConnection):
    """redis-py sends under `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes as it ends: a
    process told to stop might then go on. This keeps the same limit with `asyncio.timeout`, which loses none."""

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
    """redis-py retries commands and connecting, but not the handshake in between, in which a proxy in front of a dead
    Redis drops the connection: this does."""

    def __init__(self, connection_class: type[AbstractConnection] = Connection, **options: Any) -> None:
        super().__init__(type(connection_class.__name__, (CancelSafeConnection, connection_class), {}), **options)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        async def ensure() -> None:
            await super(HandshakeRetryPool, self).ensure_connection(connection)

        await connection.retry.call_with_retry(ensure, lambda _: connection.disconnect())


class SentinelPool(SentinelConnectionPool, HandshakeRetryPool):
    """Closes its connections to the Sentinels with its others."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


@contextlib.contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Redis' exceptions stop here: whatever keeps it from answering is StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        metrics.REDIS_ERRORS.inc()
        raise StoreUnavailable(error) from error


async def subscribe(redis: Redis, channel: str) -> AsyncIterator[bytes | None]:
    """What is published from now on; None whenever some may have been missed, as at the start.

    Raises StoreUnavailable when the subscription breaks.
    """
    with translate_redis_errors():
        async with redis.pubsub() as subscription:
            await subscription.subscribe(channel)
            while True:
                message = await subscription.get_message(timeout=_HEARING_SECONDS)
                if message is not None:
                    yield message["data"] if message["type"] == "message" else None


def connect(settings: Settings, retry: Retry) -> BatchingRedis:
    """A client that connects when first used; close it with `aclose()`.

    Retrying is safe: every step this service takes in Redis may run twice (see `shared.store.store`), and so may arq's.
    """
    options: dict[str, Any] = {
        "retry": retry,
        "retry_on_error": _TRANSIENT,
        "socket_timeout": 5.0,
        "socket_connect_timeout": 1.0,
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
    """Database, credentials and TLS come from `REDIS_URL`; host and port of the master from the Sentinels."""
    of_url = parse_url(settings.redis_url)  # type: ignore[no-untyped-call]
    kept = {name: value for name, value in of_url.items() if name not in _OF_A_SERVER}
    hosts = [part.strip().rpartition(":") for part in settings.redis_sentinels.split(",")]
    sentinel = Sentinel([(host, int(port)) for host, _, port in hosts], **options)  # type: ignore[no-untyped-call]
    return SentinelPool(  # type: ignore[no-untyped-call]
        settings.redis_sentinel_master,
        sentinel,
        ssl=settings.redis_url.startswith("rediss:"),
        check_connection=False,
        **options,
        **kept,
    )
