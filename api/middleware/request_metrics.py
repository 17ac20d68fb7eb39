"""Counts the API's responses. Wraps the whole application, so that each response is counted once, as sent."""

import time
from functools import cache

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Counter, Histogram

from shared import metrics

UNKNOWN = "unknown"
"""Route label of paths and methods without a route. The paths themselves are no closed set of labels."""
CLIENT_CLOSED_REQUEST = 499
"""Code label of a request whose caller left before the response. nginx uses the same number."""
_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})


def request_metrics_middleware(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        started_at, code = time.perf_counter(), CLIENT_CLOSED_REQUEST

        async def send_counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await app(scope, receive, send_counted)
        finally:
            _count(scope, code, time.perf_counter() - started_at)

    return call


def _count(scope: Scope, code: int, seconds: float) -> None:
    route = str(scope.get("path_template") or UNKNOWN)
    method = str(scope.get("method", ""))
    responses, duration = _metrics(route, method if method in _METHODS else "other", str(code))
    responses.inc()
    duration.observe(seconds)


@cache
def _metrics(route: str, method: str, code: str) -> tuple[Counter, Histogram]:
    """Return the two series. The cache saves their lookup, and stays small because the labels are closed sets."""
    return metrics.HTTP.labels(route, method, code), metrics.HTTP_SECONDS.labels(route, method)
