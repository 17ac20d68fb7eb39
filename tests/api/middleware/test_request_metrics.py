"""What the API counts of its answers: each once, as it was sent, by route template, method and code."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from api.app import MAX_BODY_BYTES, create_app
from api.middleware.request_metrics import request_metrics_middleware
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import KEY
from tests.support.counts import Counts, Series, value

pytestmark = pytest.mark.anyio

ONE = "/api/sandboxes/{sandbox_id}"


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """Of the API as `python -m api` serves it."""
    app = create_app(read_settings({"PROVISIONER_API_KEY": KEY}), store)
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(request_metrics_middleware(app)),
            base_url="http://provisioner",
            headers={"X-API-Key": KEY},
        ) as client,
    ):
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
async def test_an_answer_is_counted_once_as_it_was_sent(client, method, path, route, code):
    """Whatever ids there are, and whatever paths a stranger tries: the routes are a closed set."""
    counts = Counts()
    await client.request(method, path)
    assert of_http(counts) == one(route, method, code)


def of_http(counts: Counts) -> dict[Series, int]:
    return {series: number for series, number in counts.gained().items() if series[0].startswith("deerflow_http_")}


def one(route: str, method: str, code: str) -> dict[Series, int]:
    return {
        ("deerflow_http_requests_total", code, method, route): 1,
        ("deerflow_http_request_seconds_count", method, route): 1,
    }


@pytest.mark.parametrize("key", ["", "another"])
async def test_a_401_is_counted_as_401(client, key):
    counts = Counts()
    await client.get("/api/sandboxes", headers={"X-API-Key": key})
    assert counts.gained() == one("/api/sandboxes", "GET", "401") | {("deerflow_refusals_total", "unauthorized"): 1}


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
async def test_a_refusal_is_counted_by_its_code_whoever_refuses(client, method, path, body, reason):
    counts = Counts()
    answer = await client.request(method, path, content=body)
    assert answer.json()["code"] == reason
    refused = {series: number for series, number in counts.gained().items() if series[0] == "deerflow_refusals_total"}
    assert refused == {("deerflow_refusals_total", reason): 1}


async def test_a_bug_is_counted_as_500(client, fake_redis):
    await fake_redis.set("sandbox:ada", "no record")
    counts = Counts()
    await client.get("/api/sandboxes/ada")
    assert of_http(counts) == one(ONE, "GET", "500")


async def test_a_method_that_nobody_knows_is_another(client):
    counts = Counts()
    await client.request("BREW", "/health")
    assert of_http(counts) == one("unknown", "other", "405")


async def test_the_time_that_was_waited_counts(client):
    before = value("deerflow_http_request_seconds_sum", route="/api/sandboxes", method="POST")
    await client.post("/api/sandboxes", json={"sandbox_id": "ada"}, headers={"Prefer": "wait=1"})
    gained = value("deerflow_http_request_seconds_sum", route="/api/sandboxes", method="POST") - before
    assert gained > 0.9, "a second, but for what a timer rounds"


async def test_a_caller_who_goes_before_there_is_an_answer_is_counted_as_499():
    counts = Counts()
    gone = httpx.ASGITransport(request_metrics_middleware(leave))
    async with httpx.AsyncClient(transport=gone, base_url="http://provisioner") as client:
        with pytest.raises(asyncio.CancelledError):
            await client.get("/")
    assert counts.gained() == one("unknown", "GET", "499")


async def leave(scope: Scope, receive: Receive, send: Send) -> None:
    """What becomes of the application when its caller hangs up."""
    del scope, receive, send
    raise asyncio.CancelledError


async def test_what_is_no_request_is_not_counted():
    """The start and the end of the server go through here as well."""
    counts = Counts()
    passed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        passed.append(scope["type"])

    await request_metrics_middleware(app)({"type": "lifespan"}, None, None)
    assert (passed, counts.gained()) == (["lifespan"], {})
