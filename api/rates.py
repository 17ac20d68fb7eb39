"""Refuses a key that asks too often, before anything is done for it."""

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.auth import HEADER


async def rate_guard(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """After the key was checked. Raises RateLimited, StoreUnavailable."""
    await connection.app.state.rates.check(connection.headers.get(HEADER, ""))
