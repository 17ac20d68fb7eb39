import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Never

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.request import SANDBOX_ID
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import Serve

pytestmark = pytest.mark.anyio

BAD_IDS = ["ABC", "abc\n", "a" * 41, "-abc", "abc-", "a_b", "a.b", "a b", "äbc", "a\x00b", "１"]
MOUNT = {"host_path": "/srv/deer/acp", "container_path": "/mnt/acp-workspace"}

BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    *(("sandbox_id", {"sandbox_id": bad}) for bad in ("", *BAD_IDS)),
    *(("sandbox_id", {"sandbox_id": bad}) for bad in (1, True, ["abc"], {})),
    *(("thread_id", {"thread_id": bad}) for bad in ("", "a" * 65, "a b", "a/b", "a\n", "é", "a\x00", 7, [], False)),
    *(("user_id", {"user_id": bad}) for bad in ("", "a" * 129, "a.b", "../a", "a\n", "\x00", None, 7, [])),
    *(("extra_mounts", {"extra_mounts": bad}) for bad in ("/srv", {}, 1, [MOUNT] * 11)),
    *(("extra_mounts[0]", {"extra_mounts": [bad]}) for bad in ("/srv", None, 1, [])),
    ("extra_mounts[0]", {"extra_mounts": [{"host_path": "/srv/deer"}]}),
    ("extra_mounts[0]", {"extra_mounts": [{"container_path": "/mnt/acp-workspace"}]}),
    *(("extra_mounts[1].host_path", {"extra_mounts": [MOUNT, {**MOUNT, "host_path": bad}]}) for bad in ("", None, 1)),
    *(("extra_mounts[0].container_path", {"extra_mounts": [{**MOUNT, "container_path": bad}]}) for bad in ("", 1, {})),
    *(("extra_mounts[0].read_only", {"extra_mounts": [{**MOUNT, "read_only": bad}]}) for bad in ("true", 1, None)),
    *(("include_legacy_skills", {"include_legacy_skills": bad}) for bad in ("true", 1, None)),
    *(("provision_lark_cli_runtime", {"provision_lark_cli_runtime": bad}) for bad in ("", 0, [])),
    *(("provision_lark_cli_broker", {"provision_lark_cli_broker": bad}) for bad in ("no", 1.5, {})),
]

NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"nonsense",
    b"{'sandbox_id': 'abc'}",
    b'{"sandbox_id": "abc"',
    b'{"sandbox_id": "abc"} {}',
    b'{"sandbox_id": "abc",}',
    b'{"sandbox_id": NaN}',
    b'{"user_id": "\xff"}',
    b'{"unknown": "\xff"}',
    b"\xff\xfe{\x00}\x00",
    b'{"user_id": "\\ud800"}',
    b'{"user_id": "a\x00b"}',
    b"\x00",
    b"[]",
    b"null",
    b'"abc"',
    b"1",
    b'{"user_id": ' + b"9" * 5000 + b"}",
    b'{"extra_mounts": 1e999}',
    b'{"unknown": ' + b"[" * 30_000,
    b'{"unknown": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b"[" * 60_000,
]


async def is_problem(answer: httpx.Response, redis: FakeAsyncRedis, status: int) -> dict[str, Any]:
    """The problem, which every client error is, and which leaves neither a record nor a job."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert all(isinstance(problem[key], str) and problem[key] for key in ("detail", "code", "title", "type"))
    assert await redis.keys() == []
    return problem


@pytest.mark.parametrize(("field", "body"), BAD_FIELDS, ids=str)
async def test_bad_field(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, field: str, body: dict[str, Any]):
    """A field that breaks its rule is named as the caller wrote it."""
    problem = await is_problem(await api.post("/api/sandboxes", json=body), fake_redis, 400)
    assert (problem["code"], problem["field"]) == ("invalid_request", field)
    assert field in problem["detail"]


@pytest.mark.parametrize(
    "mounts",
    [
        [{**MOUNT, "host_path": "/etc"}],
        [{**MOUNT, "host_path": "/srv/deer"}],
        [{**MOUNT, "host_path": "/srv/deer-other/a"}],
        [{**MOUNT, "host_path": "srv/deer/a"}],
        [{**MOUNT, "host_path": "/srv/deer/../../etc"}],
        [{**MOUNT, "host_path": "C:\\srv\\deer\\a"}],
        [{**MOUNT, "container_path": "/etc"}],
        [{**MOUNT, "container_path": "/mnt/skills"}],
        [{**MOUNT, "container_path": "mnt/acp-workspace"}],
        [MOUNT, {**MOUNT, "host_path": "/srv/deer/another"}],
    ],
    ids=str,
)
async def test_bad_mounts(serve: Serve, fake_redis: FakeAsyncRedis, mounts: list[dict[str, Any]]):
    """Nothing is mounted from outside the base directory, nor where a sandbox has no place for it, nor twice there."""
    api = await serve(DEER_FLOW_HOST_BASE_DIR="/srv/deer")
    answer = await api.post("/api/sandboxes", json={"extra_mounts": mounts})
    problem = await is_problem(answer, fake_redis, 400)
    assert problem["field"].startswith("extra_mounts")


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:24]))
async def test_not_json(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, body: bytes):
    """A body that is not a JSON object in UTF-8 is refused, however odd or deep it is."""
    problem = await is_problem(await api.post("/api/sandboxes", content=body), fake_redis, 400)
    assert problem["code"] == "invalid_request"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["sandbox_id", "thread_id", "user_id", "extra_mounts", "include_legacy_skills", "other"])


# The API keeps nothing between two requests but in Redis, and that is looked at after each.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=64) | st.dictionaries(FIELDS, JSON).map(lambda body: json.dumps(body).encode()))
async def test_any_body(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, body: bytes):
    """Whatever is sent, it is accepted with a record and a job, or refused as a problem with neither."""
    answer = await api.post("/api/sandboxes", content=body)
    if answer.status_code == 202:
        assert await fake_redis.exists(f"sandbox:{answer.json()['sandbox_id']}", "arq:queue") == 2
        await fake_redis.flushall()
    else:
        await is_problem(answer, fake_redis, 400)


@pytest.mark.parametrize(
    "sandbox_id", ["ABC", "abc%0A", "a" * 41, "-abc", "abc-", "a_b", "%C3%A4", "a%00", "%FF", "%20"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_bad_id_in_the_path(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, method: str, sandbox_id: str):
    """An id that cannot be one is refused without a look into Redis."""
    answer = await api.request(method, f"/api/sandboxes/{sandbox_id}")
    problem = await is_problem(answer, fake_redis, 400)
    assert (problem["code"], problem["field"]) == ("invalid_request", "sandbox_id")
    assert problem["detail"] == f"sandbox_id: expected {SANDBOX_ID.expected}"


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/nothing", "/api/sandboxes/a/b", "/api/sandboxes/a%2Fb", "/sandboxes"]
)
async def test_unknown_route(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, path: str):
    """A path that is none of ours is a problem like any other."""
    await is_problem(await api.get(path), fake_redis, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/sandboxes"),
        ("DELETE", "/api/sandboxes"),
        ("PATCH", "/api/sandboxes/abc"),
        ("POST", "/api/sandboxes/abc"),
        ("POST", "/health"),
    ],
)
async def test_wrong_method(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, method: str, path: str):
    """A method that a path does not have is refused, with those that it has."""
    answer = await api.request(method, path)
    await is_problem(answer, fake_redis, 405)
    assert "GET" in answer.headers["Allow"]


async def test_largest_body(api: httpx.AsyncClient):
    """A body of 64 KiB is read."""
    body = b'{"sandbox_id": "abc"}'
    assert (await api.post("/api/sandboxes", content=body.ljust(64 * 1024))).status_code == 202


async def test_too_large(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """A body of more than 64 KiB is refused."""
    body = b'{"sandbox_id": "abc"}'
    await is_problem(await api.post("/api/sandboxes", content=body.ljust(64 * 1024 + 1)), fake_redis, 413)


async def test_too_large_in_chunks(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """A body that does not say how long it is is refused when it is too long, and not read to its end."""
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1024
            yield b" " * 1024

    await is_problem(await api.post("/api/sandboxes", content=body()), fake_redis, 413)
    assert sent <= 128 * 1024


async def test_redis_away(serve: Serve, away_url: str, fake_redis: FakeAsyncRedis):
    """While Redis is away nothing is claimed of any sandbox: 503, and when to ask again. The process is alive."""
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        api = await serve(Store(redis))
        answers = await asyncio.gather(
            api.post("/api/sandboxes", json={"sandbox_id": "abc"}),
            api.get("/api/sandboxes"),
            api.get("/api/sandboxes/abc"),
            api.delete("/api/sandboxes/abc"),
        )
        for answer in answers:
            problem = await is_problem(answer, fake_redis, 503)
            assert problem["code"] == "redis_unavailable"
            assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert (await api.get("/health")).status_code == 200


class BrokenStore(Store):
    """Has a bug, whose text holds what no caller may read."""

    async def get(self, sandbox_id: str) -> Never:
        raise RuntimeError(f"the password is hunter2 ({sandbox_id})")


async def test_unexpected(serve: Serve, fake_redis: FakeAsyncRedis):
    """A bug of ours is a problem too, and tells nothing of its inside."""
    answer = await (await serve(BrokenStore(fake_redis))).get("/api/sandboxes/abc")
    problem = await is_problem(answer, fake_redis, 500)
    assert problem["code"] == "internal_error"
    assert not any(word in answer.text for word in ("hunter2", "RuntimeError", "Traceback", "File"))
