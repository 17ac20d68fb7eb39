"""Errors: every one is a problem document, and names what is wrong."""

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
from tests.api.conftest import Api, Serve

pytestmark = pytest.mark.anyio

BAD_IDS = ["ABC", "abc\n", "a" * 41, "-abc", "abc-", "a_b", "a.b", "a b", "äbc", "a\x00b", "１"]
MOUNT = {"host_path": "/srv/deer/acp", "container_path": "/mnt/acp-workspace"}

MISTYPED_IDS: list[Any] = [1, True, ["abc"], {}]
BAD_THREAD_IDS: list[Any] = ["", "a" * 65, "a b", "a/b", "a\n", "é", "a\x00", 7, [], False]
BAD_USER_IDS: list[Any] = ["", "a" * 129, "a.b", "../a", "a\n", "\x00", None, 7, []]
BAD_MOUNTS: list[Any] = ["/srv", {}, 1, [MOUNT] * 11]
BAD_MOUNT: list[Any] = ["/srv", None, 1, []]
BAD_PATHS: list[Any] = ["", 1, {}]
BAD_BOOLEANS: list[Any] = ["true", "", "no", 0, 1, 1.5, None, [], {}]

BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    *(("sandbox_id", {"sandbox_id": bad}) for bad in ("", *BAD_IDS)),
    *(("sandbox_id", {"sandbox_id": bad}) for bad in MISTYPED_IDS),
    *(("thread_id", {"thread_id": bad}) for bad in BAD_THREAD_IDS),
    *(("user_id", {"user_id": bad}) for bad in BAD_USER_IDS),
    *(("extra_mounts", {"extra_mounts": bad}) for bad in BAD_MOUNTS),
    *(("extra_mounts[0]", {"extra_mounts": [bad]}) for bad in BAD_MOUNT),
    ("extra_mounts[0]", {"extra_mounts": [{"host_path": "/srv/deer"}]}),
    ("extra_mounts[0]", {"extra_mounts": [{"container_path": "/mnt/acp-workspace"}]}),
    *(("extra_mounts[1].host_path", {"extra_mounts": [MOUNT, {**MOUNT, "host_path": bad}]}) for bad in ("", None, 1)),
    *(("extra_mounts[0].container_path", {"extra_mounts": [{**MOUNT, "container_path": bad}]}) for bad in BAD_PATHS),
    *(("extra_mounts[0].read_only", {"extra_mounts": [{**MOUNT, "read_only": bad}]}) for bad in ("true", 1, None)),
    *(("include_legacy_skills", {"include_legacy_skills": bad}) for bad in BAD_BOOLEANS),
    *(("provision_lark_cli_runtime", {"provision_lark_cli_runtime": bad}) for bad in BAD_BOOLEANS),
    *(("provision_lark_cli_broker", {"provision_lark_cli_broker": bad}) for bad in BAD_BOOLEANS),
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
    """Return the problem, after a check of its form. A refused request leaves neither a record nor a job."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert all(isinstance(problem[key], str) and problem[key] for key in ("detail", "code", "title", "type"))
    assert await redis.keys() == []
    return problem


@pytest.mark.parametrize(("field", "body"), BAD_FIELDS, ids=str)
async def test_bad_field_is_refused_with_its_path(
    api: Api, fake_redis: FakeAsyncRedis, field: str, body: dict[str, Any]
):
    problem = await is_problem(await api.post("/api/sandboxes", json=body), fake_redis, 400)
    assert (problem["code"], problem["field"]) == ("invalid_request", field)
    assert field in problem["detail"]
    assert "regex" not in problem["detail"]


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
async def test_mount_outside_the_base_or_over_another_place_is_refused(
    serve: Serve, fake_redis: FakeAsyncRedis, mounts: list[dict[str, Any]]
):
    api = await serve(DEER_FLOW_HOST_BASE_DIR="/srv/deer")
    answer = await api.post("/api/sandboxes", json={"extra_mounts": mounts})
    problem = await is_problem(answer, fake_redis, 400)
    assert problem["field"].startswith("extra_mounts")


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:24]))
async def test_body_that_is_no_json_object_is_refused(api: Api, fake_redis: FakeAsyncRedis, body: bytes):
    problem = await is_problem(await api.post("/api/sandboxes", content=body), fake_redis, 400)
    assert problem["code"] == "invalid_request"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["sandbox_id", "thread_id", "user_id", "extra_mounts", "include_legacy_skills", "other"])


# The API keeps state between two requests only in Redis, which is checked after each request.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=64) | st.dictionaries(FIELDS, JSON).map(lambda body: json.dumps(body).encode()))
async def test_any_body_is_accepted_with_record_and_job_or_refused_with_neither(
    api: Api, fake_redis: FakeAsyncRedis, body: bytes
):
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
async def test_bad_id_in_the_path_is_refused_with_its_rule_in_words(
    api: Api, fake_redis: FakeAsyncRedis, method: str, sandbox_id: str
):
    """Redis is not asked."""
    answer = await api.request(method, f"/api/sandboxes/{sandbox_id}")
    problem = await is_problem(answer, fake_redis, 400)
    assert (problem["code"], problem["field"]) == ("invalid_request", "sandbox_id")
    assert problem["detail"] == f"sandbox_id: expected {SANDBOX_ID.expected}"


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/nothing", "/api/sandboxes/a/b", "/api/sandboxes/a%2Fb", "/sandboxes"]
)
async def test_unknown_route_is_a_problem_404(api: Api, fake_redis: FakeAsyncRedis, path: str):
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
async def test_wrong_method_is_a_problem_405_with_the_allowed_methods(
    api: Api, fake_redis: FakeAsyncRedis, method: str, path: str
):
    answer = await api.request(method, path)
    await is_problem(answer, fake_redis, 405)
    assert "GET" in answer.headers["Allow"]


async def test_body_of_64_kib_is_read(api: Api):
    body = b'{"sandbox_id": "abc"}'
    assert (await api.post("/api/sandboxes", content=body.ljust(64 * 1024))).status_code == 202


async def test_larger_body_is_a_problem_413(api: Api, fake_redis: FakeAsyncRedis):
    body = b'{"sandbox_id": "abc"}'
    await is_problem(await api.post("/api/sandboxes", content=body.ljust(64 * 1024 + 1)), fake_redis, 413)


async def test_larger_body_in_chunks_is_refused_before_its_end(api: Api, fake_redis: FakeAsyncRedis):
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1024
            yield b" " * 1024

    await is_problem(await api.post("/api/sandboxes", content=body()), fake_redis, 413)
    assert sent <= 128 * 1024


async def test_request_without_redis_is_a_problem_503(serve: Serve, away_url: str, fake_redis: FakeAsyncRedis):
    """`Retry-After` tells when to try again; `/health` stays 200."""
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
    """A store with a bug, whose error text is secret."""

    async def get(self, sandbox_id: str) -> Never:
        raise RuntimeError(f"the password is hunter2 ({sandbox_id})")


async def test_bug_is_a_problem_500_without_details(serve: Serve, fake_redis: FakeAsyncRedis):
    answer = await (await serve(BrokenStore(fake_redis))).get("/api/sandboxes/abc")
    problem = await is_problem(answer, fake_redis, 500)
    assert problem["code"] == "internal_error"
    assert not any(word in answer.text for word in ("hunter2", "RuntimeError", "Traceback", "File"))
