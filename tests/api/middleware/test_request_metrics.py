"""Metrics of requests: each response counts once, by route template, method and code."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar.types import Receive, Scope, Send

from api.app import MAX_BODY_BYTES, create_app
from api.middleware.request_metrics import request_metrics_middleware
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import KEY, Api
from tests.support.counts import Counts, Series, value

pytestmark = pytest.mark.anyio

ONE = "/api/sandboxes/{sandbox_id}"


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Api]:
    """Yield a client of the API as `python -m api` serves it."""
    app = create_app(read_settings({"PROVISIONER_API_KEY": KEY}), store)
    async with app.lifespan(), Api(request_metrics_middleware(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "route", "code"),
    [
        ("GET", "/health", "/health", "200"),
        ("GET", "/metrics", "/metrics", "200"),
        ("GET", "/api/sandboxes", "/api/sandboxes", "200"),
        ("GET", "/api/sandboxes/ada", ONE, "404"),
        ("GET", "/api/sandboxes/bob", ONE, "404"),
        ("DELETE", "/api/sandboxes/ada", ONE, "200"),
        ("GET", "/api/sandboxes/no%20id", ONE, "400"),
        ("GET", "/no/such/route", "unknown", "404"),
        ("POST", "/nor/this/one", "unknown", "404"),
        ("PUT", "/api/sandboxes", "unknown", "405"),
    ],
)
async def test_response_is_counted_once_by_route_method_and_code(client, method, path, route, code):
    """Ids and unknown paths do not appear: the routes are a closed set."""
    counts = Counts()
    await client.request(method, path)
    assert http_series(counts) == one_response(route, method, code)


def http_series(counts: Counts) -> dict[Series, int]:
    return {series: number for series, number in counts.gained().items() if series[0].startswith("deerflow_http_")}


def one_response(route: str, method: str, code: str) -> dict[Series, int]:
    return {
        ("deerflow_http_requests_total", code, method, route): 1,
        ("deerflow_http_request_seconds_count", method, route): 1,
    }


@pytest.mark.parametrize("key", ["", "another"])
async def test_401_is_counted_as_401(client, key):
    counts = Counts()
    await client.get("/api/sandboxes", headers={"X-API-Key": key})
    assert counts.gained() == one_response("/api/sandboxes", "GET", "401") | {
        ("deerflow_refusals_total", "unauthorized"): 1
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "reason"),
    [
        ("GET", "/no/such/route", b"", "not_found"),
        ("PUT", "/api/sandboxes", b"", "method_not_allowed"),
        ("POST", "/api/sandboxes", b" " * (MAX_BODY_BYTES + 1), "request_entity_too_large"),
        ("POST", "/api/sandboxes", b"{", "invalid_request"),
        ("GET", "/api/sandboxes?limit=none", b"", "invalid_request"),
        ("GET", "/api/sandboxes/ada", b"", "sandbox_not_found"),
    ],
)
async def test_refusal_is_counted_by_its_code(client, method, path, body, reason):
    """Litestar's refusals as well as those of the API."""
    counts = Counts()
    answer = await client.request(method, path, content=body)
    assert answer.json()["code"] == reason
    refusals = {series: number for series, number in counts.gained().items() if series[0] == "deerflow_refusals_total"}
    assert refusals == {("deerflow_refusals_total", reason): 1}


async def test_error_of_the_server_is_counted_as_500(client, fake_redis):
    await fake_redis.set("sandbox:ada", "no record")
    counts = Counts()
    await client.get("/api/sandboxes/ada")
    assert http_series(counts) == one_response(ONE, "GET", "500")


async def test_unknown_method_is_counted_as_other(client):
    counts = Counts()
    await client.request("BREW", "/health")
    assert http_series(counts) == one_response("unknown", "other", "405")


async def test_duration_includes_the_requested_wait(client):
    before = value("deerflow_http_request_seconds_sum", route="/api/sandboxes", method="POST")
    await client.post("/api/sandboxes", json={"sandbox_id": "ada"}, headers={"Prefer": "wait=1"})
    seconds = value("deerflow_http_request_seconds_sum", route="/api/sandboxes", method="POST") - before
    assert seconds > 0.9, "one second, minus the rounding of timers"


async def test_request_whose_caller_leaves_is_counted_as_499():
    counts = Counts()
    async with Api(request_metrics_middleware(leave)) as client:
        with pytest.raises(asyncio.CancelledError):
            await client.get("/")
    assert counts.gained() == one_response("unknown", "GET", "499")


async def leave(scope: Scope, receive: Receive, send: Send) -> None:
    """End as the application does when its caller closes the connection."""
    del scope, receive, send
    raise asyncio.CancelledError


async def test_lifespan_is_not_counted():
    counts = Counts()
    types = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        types.append(scope["type"])

    call: Any = request_metrics_middleware(app)
    await call({"type": "lifespan"}, None, None)
    assert (types, counts.gained()) == (["lifespan"], {})
