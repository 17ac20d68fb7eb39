"""Counts what the API answers: around the whole application, so that nothing is missed, and each as it was sent."""

import time
from functools import cache

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Counter, Histogram

from shared import metrics

UNKNOWN = "unknown"
"""Of a path that has no route, or not for that method: their number is not closed."""


def request_metrics_middleware(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        began, code = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await app(scope, receive, sending)
        finally:
            _count(scope, code, time.perf_counter() - began)

    return call


def _count(scope: Scope, code: int, seconds: float) -> None:
    route = str(scope.get("path_template") or UNKNOWN)
    method = str(scope.get("method", ""))
    method = method if method in {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"} else "other"
    answers, duration = _counters(route, method, str(code or 499))  # 499: nobody waited for the answer
    answers.inc()
    duration.observe(seconds)


@cache
def _counters(route: str, method: str, code: str) -> tuple[Counter, Histogram]:
    """Looked up once: the set of them is closed."""
    return metrics.HTTP.labels(route, method, code), metrics.HTTP_SECONDS.labels(route, method)
