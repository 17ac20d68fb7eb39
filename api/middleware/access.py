"""Access to `/api`: checks the key and the rate of requests, before the request is read.

A middleware, because Litestar copies the handler for each of its guards at each request.
"""

from collections.abc import Callable

from litestar.types import ASGIApp, Receive, Scope, Send

from api.http.auth import HEADER, ApiKey
from api.state.app_state import state_of
from shared.settings import Settings

_HEADER = HEADER.lower().encode()


def access_middleware(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    """Return the middleware. If the API is open, all callers share one rate limit."""
    key = ApiKey(settings)

    def around(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            """Check the request, then call `app`.

            Raises:
                Unauthorized: the key is missing or wrong.
                RateLimited: the key sends too many requests.
                StoreUnavailable: Redis does not answer.
            """
            key.check(next((value for name, value in scope["headers"] if name == _HEADER), None))
            await state_of(scope["litestar_app"]).rate_limiter.check(settings.provisioner_api_key)
            await app(scope, receive, send)

        return call

    return around
