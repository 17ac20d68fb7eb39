from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from tests.api.conftest import KEY, Serve

pytestmark = pytest.mark.anyio

ROUTES = [
    ("POST", "/api/sandboxes"),
    ("GET", "/api/sandboxes"),
    ("GET", "/api/sandboxes/abc"),
    ("DELETE", "/api/sandboxes/abc"),
    ("GET", "/api/capabilities"),
]
WRONG: list[dict[str, Any]] = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "another-key"},
    {"X-API-Key": KEY.upper()},
    {"X-API-Key": KEY + "y"},
    {"X-API-Key": KEY[:-1]},
    {"X-API-Key": b"\xff\xfe"},
    {"X-API-Key": "schlüssel".encode()},
    {"X-API-Key": b"\xc3\x28"},
    {"Authorization": f"Bearer {KEY}"},
]


def is_refused(answer: httpx.Response) -> bool:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert KEY not in answer.text
    return (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_asks_for_the_key(serve: Serve, fake_redis: FakeAsyncRedis, method: str, path: str):
    """Whoever has no key is refused everywhere, and nothing is written."""
    assert is_refused(await (await serve(headers={})).request(method, path, json={}))
    assert await fake_redis.keys() == []


@pytest.mark.parametrize("headers", WRONG, ids=str)
async def test_wrong_key(serve: Serve, fake_redis: FakeAsyncRedis, headers: dict[str, Any]):
    """A key that is not the server's is refused, whatever its bytes are."""
    assert is_refused(await (await serve(headers=headers)).post("/api/sandboxes", json={}))
    assert await fake_redis.keys() == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_right_key(api: httpx.AsyncClient, method: str, path: str):
    """Whoever has the key is let in everywhere."""
    assert (await api.request(method, path, json={})).status_code in {200, 202, 404}


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": KEY}], ids=str)
async def test_no_key_configured(serve: Serve, headers: dict[str, Any]):
    """A server without a key lets nobody in, and says what to set."""
    answer = await (await serve(headers=headers, PROVISIONER_API_KEY="")).get("/api/sandboxes")
    assert answer.status_code == 401
    assert "PROVISIONER_API_KEY" in answer.json()["detail"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "any"}], ids=str)
async def test_anonymous(serve: Serve, headers: dict[str, Any]):
    """A server without a key lets everyone in when somebody said that this is meant."""
    api = await serve(headers=headers, PROVISIONER_API_KEY="", PROVISIONER_ALLOW_ANONYMOUS="true")
    assert (await api.post("/api/sandboxes", json={})).status_code == 202


async def test_a_key_is_asked_for_even_so(serve: Serve):
    """Where there is a key, it is asked for, whatever is said of anonymous callers."""
    assert is_refused(await (await serve(headers={}, PROVISIONER_ALLOW_ANONYMOUS="true")).get("/api/sandboxes"))


async def test_refused_before_the_body_is_read(serve: Serve):
    """Who has no key is refused before a byte of the body is read."""
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{}")
        yield b"{}"

    assert is_refused(await (await serve(headers={})).post("/api/sandboxes", content=body()))
    assert read == []
