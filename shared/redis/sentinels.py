"""The pool of connections to the master that Sentinels name."""

from typing import Any

from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.connection import parse_url

from shared.redis.pool import HandshakeRetryPool
from shared.settings import Settings

CONNECT_SECONDS = 0.3
REPLY_SECONDS = 0.5
"""Limits for one Sentinel. They are asked in turn, and a call must get past those that are away within its deadline."""
_SERVER_OPTIONS = frozenset({"host", "port", "path", "connection_class"})
"""Options of a URL that name one server. With Sentinels, the Sentinels name the server."""


class SentinelPool(SentinelConnectionPool, HandshakeRetryPool):
    """Pool that closes its connections to the Sentinels too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect all, or only idle connections after a change of the master."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def sentinel_pool(settings: Settings, options: dict[str, Any]) -> SentinelPool:
    """Open a pool with database, credentials and TLS of `REDIS_URL`, and the master that the Sentinels name."""
    parsed = parse_url(settings.redis_url)  # type: ignore[no-untyped-call]
    url_options = {name: value for name, value in parsed.items() if name not in _SERVER_OPTIONS}
    uses_tls = settings.redis_url.startswith("rediss:")
    sentinel_options = {
        **{name: value for name, value in url_options.items() if name.startswith("ssl_")},
        "ssl": uses_tls,
        "username": settings.redis_sentinel_username or None,
        "password": settings.redis_sentinel_password or None,
        "socket_timeout": REPLY_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
    }
    hosts = [part.strip().rpartition(":") for part in settings.redis_sentinels.split(",")]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(host, int(port)) for host, _, port in hosts], sentinel_kwargs=sentinel_options
    )
    return SentinelPool(  # type: ignore[no-untyped-call]
        settings.redis_sentinel_master, sentinel, ssl=uses_tls, check_connection=False, **options, **url_options
    )
