"""Connections to Redis by URL, socket or Sentinel. No other module opens a connection."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (  # names of redis-py that hide built-in names
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    ReadOnlyError,
    TimeoutError,  # noqa: A004
)

from shared.queue import job
from shared.redis.batching import BatchingRedis
from shared.redis.calls import CALL_SECONDS, translate_redis_errors
from shared.redis.pool import HandshakeRetryPool
from shared.redis.sentinels import sentinel_pool
from shared.settings import Settings


class CappedBackoff(ExponentialBackoff):
    """Backoff for any number of failures. redis-py's own raises OverflowError at the 1024th, after 17 minutes."""

    def compute(self, failures: int) -> float:
        return super().compute(min(failures, 16))


FAIL_FAST = Retry(CappedBackoff(cap=0.2, base=0.02), retries=2)
"""Retries of a request. A restart of Redis is hidden, and `redis_call` limits the time of all tries together."""
RETRY_FOREVER = Retry(CappedBackoff(cap=1.0, base=0.02), retries=-1)
"""Retries of arq's loop. A worker outlives an outage of Redis, and goes on within a second of its end."""

_TRANSIENT = [ConnectionError, TimeoutError, OSError, BusyLoadingError, ReadOnlyError]
"""Redis is down (OSError: before there is a connection), slow, still loading its data, or demoted to a replica."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Idle seconds before a probe, seconds between probes, and probes without a reply. A subscription can be silent for
hours, and must notice within 25 s that the host of Redis is gone."""
_SUBSCRIPTION_SECONDS = 3600.0
"""Timeout of one read of a subscription. Silence is normal and no reason for a new subscription."""


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
        sentinel_pool(settings, options)
        if settings.redis_sentinels
        else HandshakeRetryPool.from_url(settings.redis_url, **options)
    )
    client = cast(BatchingRedis, BatchingRedis.from_pool(pool))
    client.job_serializer, client.job_deserializer = job.encode, job.decode
    return client
