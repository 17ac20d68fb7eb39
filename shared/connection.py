"""The one place that opens a connection to Redis, however it is named: URL, socket or Sentinel."""

from typing import Any

from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.connection import parse_url
from redis.exceptions import BusyLoadingError, ConnectionError, ReadOnlyError, TimeoutError  # noqa: A004 - redis' own names

from shared import queue
from shared.settings import Settings

PROMPT = Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=2)
"""For a request: a stale connection is forgiven (Redis was restarted); a Redis that is away is said within a second."""
PATIENT = Retry(ExponentialBackoff(cap=1.0, base=0.02), retries=-1)
"""For arq's loop: no worker exits because Redis does; it goes on within a second of its return."""

_TRANSIENT = [ConnectionError, TimeoutError, OSError, BusyLoadingError, ReadOnlyError]
"""Away (OSError: before there is a connection at all), slow, still reading its append-only file, or demoted."""

_CREDENTIALS = frozenset({"db", "username", "password"})


def connect(settings: Settings, retry: Retry) -> ArqRedis:
    """A client that connects when first used; close it with `aclose()`.

    Retrying is safe: every step this service takes in Redis may run twice (see `shared.store`), and so may arq's.
    """
    options: dict[str, Any] = {
        "retry": retry,
        "retry_on_error": _TRANSIENT,
        "socket_timeout": 5.0,
        "socket_connect_timeout": 1.0,
        "socket_keepalive": True,
    }
    if settings.redis_sentinels:
        client = _through_sentinels(settings, options)
    else:
        if settings.redis_url.startswith("unix:"):
            options.pop("socket_keepalive")
        client = ArqRedis.from_url(settings.redis_url, **options)
    client.job_serializer, client.job_deserializer = queue.encode, queue.decode
    return client


def _through_sentinels(settings: Settings, options: dict[str, Any]) -> ArqRedis:
    """Database and credentials come from `REDIS_URL`; host and port of the master from the Sentinels."""
    url = {k: v for k, v in parse_url(settings.redis_url).items() if k in _CREDENTIALS}  # type: ignore[no-untyped-call]
    hosts = [part.strip().rpartition(":") for part in settings.redis_sentinels.split(",")]
    sentinel = Sentinel([(host, int(port)) for host, _, port in hosts], **options, **url)  # type: ignore[no-untyped-call]
    client: ArqRedis = sentinel.master_for(settings.redis_sentinel_master, redis_class=ArqRedis)
    return client
