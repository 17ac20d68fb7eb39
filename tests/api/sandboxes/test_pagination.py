"""Lists of sandboxes: filters and pages, while sandboxes come and go."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.sandbox.record import Spec, Status
from shared.sandbox.transitions import new_record
from shared.store.pagination import Cursor
from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import Api, Evolve, Serve
from tests.conftest import Clock
from tests.support.store import put, remove

pytestmark = pytest.mark.anyio

LIST = "/api/sandboxes"


async def pages(api: Api, limit: int | None = None, **query: Any) -> AsyncIterator[list[str]]:
    """Yield the ids of each page in turn."""
    parameters = query if limit is None else {**query, "limit": limit}
    while True:
        answer = await api.get(LIST, params=parameters)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["count"] == len(body["sandboxes"])
        yield [sandbox["sandbox_id"] for sandbox in body["sandboxes"]]
        if "next_cursor" not in body:
            return
        parameters = {**parameters, "cursor": body["next_cursor"]}


async def list_all(api: Api, limit: int | None = None, **query: Any) -> list[str]:
    return [sandbox_id async for page in pages(api, limit, **query) for sandbox_id in page]


async def make(store: Store, *ids: str, user_id: str = "default", thread_id: str | None = None) -> None:
    """Write a new record of each id."""
    spec = Spec(user_id=user_id, thread_id=thread_id)
    records = [new_record(sandbox_id, spec, cluster="default", now=store.now()) for sandbox_id in ids]
    await asyncio.gather(*(put(store, record) for record in records))


@pytest.fixture
async def several(api: Api, evolve: Evolve, clock: Clock) -> None:
    """Create sandboxes of two users in three threads, in several states; `a` is the oldest."""
    for sandbox_id, user_id, thread_id, status in [
        ("a", "ada", "t1", Status.RUNNING),
        ("b", "bob", "t1", Status.RUNNING),
        ("c", "ada", "t2", Status.PENDING),
        ("d", "ada", None, Status.FAILED),
        ("e", "bob", "t2", Status.TERMINATING),
        ("f", "ada", "t1", Status.TERMINATING),
        ("g", "ada", "t1", Status.SUCCEEDED),
    ]:
        body = {"sandbox_id": sandbox_id, "user_id": user_id, "thread_id": thread_id}
        await api.post(LIST, json=body)
        await evolve(sandbox_id, status=status)
        clock.advance(1)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("limit", [None, 1, 2, 100])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "abcdg"),
        ({"status": "Running"}, "ab"),
        ({"status": "Pending"}, "c"),
        ({"status": "Failed"}, "d"),
        ({"status": "Succeeded"}, "g"),
        ({"status": "Unknown"}, ""),
        ({"status": "Terminating"}, "ef"),
        ({"user_id": "ada"}, "acdg"),
        ({"user_id": "nobody"}, ""),
        ({"user_id": "ad"}, ""),
        ({"thread_id": "t1"}, "abg"),
        ({"thread_id": "d"}, "d"),
        ({"thread_id": "a"}, ""),
        ({"user_id": "ada", "thread_id": "t1"}, "ag"),
        ({"user_id": "bob", "thread_id": "t2"}, ""),
        ({"status": "Terminating", "user_id": "ada"}, "f"),
        ({"status": "Terminating", "thread_id": "t2"}, "e"),
        ({"status": "Running", "user_id": "bob", "thread_id": "t1"}, "b"),
        ({"status": "Failed", "user_id": "bob"}, ""),
    ],
    ids=str,
)
async def test_list_filters_by_status_user_and_thread(
    api: Api, query: dict[str, Any], expected: str, limit: int | None
):
    """Alone and together, in one answer and in pages, oldest first."""
    assert "".join(await list_all(api, limit, **query)) == expected


@pytest.mark.parametrize("name", ["user_id", "thread_id"])
async def test_filter_null_selects_the_name_null(api: Api, name: str):
    await api.post(LIST, json={"sandbox_id": "a"})
    await api.post(LIST, json={"sandbox_id": "b", name: "null"})
    query: dict[str, Any] = {name: "null"}
    assert await list_all(api, **query) == ["b"]


@pytest.mark.usefixtures("several")
async def test_list_without_parameters_is_one_answer(api: Api):
    """Today's client reads this shape."""
    body = (await api.get(LIST)).json()
    assert body.keys() == {"sandboxes", "count"}
    assert body["count"] == 5
    assert [s["sandbox_id"] for s in body["sandboxes"]] == list("abcdg")
    for sandbox in body["sandboxes"]:
        assert sandbox == (await api.get(f"{LIST}/{sandbox['sandbox_id']}")).json()


@pytest.mark.usefixtures("several")
async def test_page_has_at_most_limit_sandboxes_and_a_cursor_unless_it_is_the_last(api: Api):
    first = (await api.get(LIST, params={"limit": 2})).json()
    assert ([s["sandbox_id"] for s in first["sandboxes"]], first["count"]) == (["a", "b"], 2)
    rest = (await api.get(LIST, params={"cursor": first["next_cursor"]})).json()
    assert [s["sandbox_id"] for s in rest["sandboxes"]] == ["c", "d", "g"]
    assert rest.keys() == {"sandboxes", "count"}


@pytest.mark.usefixtures("several")
async def test_cursor_sent_twice_returns_the_same_page(api: Api):
    cursor = (await api.get(LIST, params={"limit": 2})).json()["next_cursor"]
    first, second = [(await api.get(LIST, params={"limit": 2, "cursor": cursor})).json() for _ in range(2)]
    assert first == second


def cursor_of(created_at: float, sandbox_id: bytes) -> str:
    return base64.urlsafe_b64encode(struct.pack(">d", created_at) + sandbox_id).decode()


BAD: list[tuple[str, str]] = [
    *(("limit", bad) for bad in ("0", "-1", "1001", "", "x", "1.5", "9" * 5000, "\x00", "１x")),
    *(("status", bad) for bad in ("running", "", "Gone", "Running,Pending", "Running\x00", "0")),
    *(("cursor", bad) for bad in ("x", "####", "AAAA", "a" * 5000, "\x00", "é", "Running", "MQ==", "=")),
    ("cursor", cursor_of(float("nan"), b"abc")),
    ("cursor", cursor_of(float("inf"), b"abc")),
    ("cursor", cursor_of(float("-inf"), b"abc")),
    ("cursor", cursor_of(1.0, b"\xff")),
    ("cursor", cursor_of(1.0, b"abc").rstrip("=")),
    ("cursor", cursor_of(1.0, b"abc") + "\n"),
    ("cursor", " " + cursor_of(1.0, b"abc")),
    ("cursor", cursor_of(-1e300 / 3, b"abc").replace("_", "/").replace("-", "+") + "/"),
]


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda text: repr(text)[:30])
async def test_bad_parameter_is_refused_with_its_name(api: Api, name: str, value: str):
    answer = await api.get(LIST, params={name: value})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert (answer.json()["code"], answer.json()["field"]) == ("invalid_request", name)
    assert name in answer.json()["detail"]


@pytest.mark.parametrize("query", ["limit=%FF", "status=%FF", "cursor=%FF", "limit=%00", "cursor=%ED%A0%80"])
async def test_parameter_that_is_no_text_is_refused(api: Api, query: str):
    assert (await api.get(f"{LIST}?{query}")).status_code == 400


@pytest.mark.parametrize("query", ["user_id=%FF", "thread_id=%00", "user_id=" + "a" * 5000, "other=1", "user_id=*"])
async def test_filter_without_a_match_and_unknown_parameters_are_no_errors(api: Api, query: str):
    answer = await api.get(f"{LIST}?{query}")
    assert (answer.status_code, answer.json()["sandboxes"]) == (200, [])


STEPS = st.lists(
    st.tuples(st.sampled_from(["create", "recreate", "delete", "remove", "change"]), st.sampled_from("abcdefghij")),
    max_size=4,
)


# The API keeps state between two examples only in Redis, which each example flushes.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    first=st.sets(st.sampled_from("abcdefghij")),
    meanwhile=st.lists(STEPS, max_size=12),
    limit=st.integers(1, 4),
    ticks=st.integers(0, 1),
)
async def test_pages_contain_each_lasting_incarnation_once_while_others_come_and_go(
    api: Api,
    fake_redis: FakeAsyncRedis,
    store: Store,
    clock: Clock,
    first: set[str],
    meanwhile: list[list[tuple[str, str]]],
    limit: int,
    ticks: int,
):
    """Also with a clock that stands still. No incarnation is listed twice."""
    await fake_redis.flushall()
    for sandbox_id in sorted(first, reverse=True):
        await api.post(LIST, json={"sandbox_id": sandbox_id})
        clock.advance(ticks)
    lasting = {(s["sandbox_id"], s["generation"]) for s in (await api.get(LIST)).json()["sandboxes"]}
    listed: list[tuple[str, int]] = []
    query: dict[str, Any] = {"limit": limit}
    steps = iter(meanwhile)
    while True:
        body = (await api.get(LIST, params=query)).json()
        listed += [(s["sandbox_id"], s["generation"]) for s in body["sandboxes"]]
        if "next_cursor" not in body:
            break
        query["cursor"] = body["next_cursor"]
        for action, sandbox_id in next(steps, []):
            clock.advance(ticks)
            await perform(api, store, action, sandbox_id)
            present = {(s["sandbox_id"], s["generation"]) for s in (await api.get(LIST)).json()["sandboxes"]}
            lasting &= present
    incarnations = [incarnation for incarnation in listed if incarnation in lasting]
    assert sorted(incarnations) == sorted(lasting)
    # After its record is removed, an id counts from generation 1 again: one pair can be two incarnations.
    removed = {sandbox_id for step in meanwhile for action, sandbox_id in step if action == "remove"}
    rest = [incarnation for incarnation in listed if incarnation[0] not in removed]
    assert len(set(rest)) == len(rest)


async def perform(api: Api, store: Store, action: str, sandbox_id: str) -> None:
    if action in {"delete", "recreate"}:
        await api.delete(f"{LIST}/{sandbox_id}")
    if action in {"create", "recreate"}:
        await api.post(LIST, json={"sandbox_id": sandbox_id})
    if action == "remove":
        await remove(store, sandbox_id)
    if action == "change":
        await store.update(sandbox_id, Update)


@pytest.fixture
async def on_valkey(valkey: ArqRedis, serve: Serve, clock: Clock) -> tuple[Api, Store]:
    """Serve an API on a real Valkey, which is fast enough for thousands of records."""
    store = Store(valkey, clock)
    return await serve(store), store


async def test_thousands_of_sandboxes_created_at_one_time_are_listed_in_order(
    on_valkey: tuple[Api, Store],
):
    """There are more of them than one read brings."""
    api, store = on_valkey
    ids = [f"s{number:04}" for number in range(1300)]
    await make(store, *ids)
    assert await list_all(api, 1000) == await list_all(api, 130) == await list_all(api) == ids


async def test_page_reads_a_bounded_number_of_records(on_valkey: tuple[Api, Store], clock: Clock):
    """A page can be short or empty for that reason; the next pages have the rest."""
    api, store = on_valkey
    await make(store, "first", thread_id="t")
    clock.advance(1)
    await make(store, *(f"s{number:04}" for number in range(2100)))
    clock.advance(1)
    await make(store, "last", thread_id="t")
    listed = [page async for page in pages(api, 10, thread_id="t")]
    assert listed[0] == ["first"]
    assert [sandbox_id for page in listed for sandbox_id in page] == ["first", "last"]


async def test_cursor_is_a_position_and_needs_no_sandbox(api: Api):
    await api.post(LIST, json={"sandbox_id": "b"})
    assert await list_all(api, cursor=str(Cursor(0.0, "zzz"))) == ["b"]
    assert await list_all(api, cursor=str(Cursor(1_750_000_000.0, "a"))) == ["b"]
    assert await list_all(api, cursor=str(Cursor(1_750_000_000.0, "b"))) == []
    assert await list_all(api, cursor=str(Cursor(2e9, ""))) == []
