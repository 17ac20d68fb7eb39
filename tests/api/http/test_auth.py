"""The API key."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from tests.api.conftest import KEY, Api, Serve

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
async def test_route_without_the_key_is_401_and_writes_nothing(
    serve: Serve, fake_redis: FakeAsyncRedis, method: str, path: str
):
    assert is_refused(await (await serve(headers={})).request(method, path, json={}))
    assert await fake_redis.keys() == []


@pytest.mark.parametrize("headers", WRONG, ids=str)
async def test_wrong_key_is_401_and_writes_nothing(serve: Serve, fake_redis: FakeAsyncRedis, headers: dict[str, Any]):
    assert is_refused(await (await serve(headers=headers)).post("/api/sandboxes", json={}))
    assert await fake_redis.keys() == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_right_key_is_accepted_by_every_route(api: Api, method: str, path: str):
    assert (await api.request(method, path, json={})).status_code in {200, 202, 404}


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": KEY}], ids=str)
async def test_server_without_a_key_refuses_all_and_names_the_setting(serve: Serve, headers: dict[str, Any]):
    answer = await (await serve(headers=headers, PROVISIONER_API_KEY="")).get("/api/sandboxes")
    assert answer.status_code == 401
    assert "PROVISIONER_API_KEY" in answer.json()["detail"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "any"}], ids=str)
async def test_server_that_allows_anonymous_callers_accepts_all(serve: Serve, headers: dict[str, Any]):
    api = await serve(headers=headers, PROVISIONER_API_KEY="", PROVISIONER_ALLOW_ANONYMOUS="true")
    assert (await api.post("/api/sandboxes", json={})).status_code == 202


async def test_server_with_a_key_ignores_that_anonymous_callers_are_allowed(serve: Serve):
    assert is_refused(await (await serve(headers={}, PROVISIONER_ALLOW_ANONYMOUS="true")).get("/api/sandboxes"))


async def test_request_without_the_key_is_refused_before_its_body_is_read(serve: Serve):
    chunks = []

    async def body() -> AsyncIterator[bytes]:
        chunks.append(b"{}")
        yield b"{}"

    assert is_refused(await (await serve(headers={})).post("/api/sandboxes", content=body()))
    assert chunks == []
