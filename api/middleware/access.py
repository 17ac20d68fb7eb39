"""Who may ask: whoever has the key, and does not ask too often. Nothing is read or done for others.

A middleware, and not Litestar's guards: it copies the handler for each of those, at each request.
"""

from collections.abc import Callable

from litestar.types import ASGIApp, Receive, Scope, Send

from api.http.auth import HEADER, ApiKey
from api.state.app_state import state_of
from shared.settings import Settings

_HEADER = HEADER.lower().encode()


def access_middleware(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    """With an open API, all who ask share one allowance."""
    key = ApiKey(settings)

    def around(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            """Raises Unauthorized, RateLimited, StoreUnavailable."""
            key.check(next((value for name, value in scope["headers"] if name == _HEADER), None))
            await state_of(scope["litestar_app"]).rate_limiter.check(settings.provisioner_api_key)
            await app(scope, receive, send)

        return call

    return around
