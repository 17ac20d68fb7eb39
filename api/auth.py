"""The key of `/api`: one shared secret, compared in constant time, and closed unless somebody said open."""

import hmac

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from shared.errors import Unauthorized
from shared.settings import Settings

HEADER = "X-API-Key"


def key_guard(settings: Settings) -> Guard:
    """A guard, so that it speaks before any body is read; async, for Litestar runs others in a thread."""
    expected = settings.provisioner_api_key.encode()

    async def require_key(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        if not expected:
            if settings.provisioner_allow_anonymous:
                return
            raise Unauthorized("This server has no PROVISIONER_API_KEY, so it refuses every call; set one.")
        given = connection.headers.get(HEADER)
        if given is None:
            raise Unauthorized(f"Send the key in the {HEADER} header.")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            raise Unauthorized(f"The key in the {HEADER} header is not this server's.")

    return require_key
