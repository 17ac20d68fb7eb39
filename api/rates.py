"""Refuses a key that asks too often, before anything is done for it."""

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from shared.settings import Settings


def rate_guard(settings: Settings) -> Guard:
    """After the key was checked: there is one, and its bucket, or with an open API one for all who ask."""

    async def limit_rate(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        """Raises RateLimited, StoreUnavailable."""
        await connection.app.state.rates.check(settings.provisioner_api_key)

    return limit_rate
