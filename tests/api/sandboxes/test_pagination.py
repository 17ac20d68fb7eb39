"""`GET /api/sandboxes`: what is chosen, page by page, while sandboxes come and go."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
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
from tests.api.conftest import Evolve, Serve
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

LIST = "/api/sandboxes"


async def pages(api: httpx.AsyncClient, limit: int | None = None, **query: Any) -> AsyncIterator[list[str]]:
    """The ids of each page in turn."""
    sent = query if limit is None else {**query, "limit": limit}
    while True:
        answer = await api.get(LIST, params=sent)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["count"] == len(body["sandboxes"])
        yield [sandbox["sandbox_id"] for sandbox in body["sandboxes"]]
        if "next_cursor" not in body:
            return
        sent = {**sent, "cursor": body["next_cursor"]}


async def walked(api: httpx.AsyncClient, limit: int | None = None, **query: Any) -> list[str]:
    return [sandbox_id async for page in pages(api, limit, **query) for sandbox_id in page]


async def make(store: Store, *ids: str, user_id: str = "default", thread_id: str | None = None) -> None:
    """As the API and the worker write them, in the order of their names."""

    async def one(sandbox_id: str) -> None:
        spec = Spec(user_id=user_id, thread_id=thread_id)
        await store.create_or_update(
            sandbox_id, lambda _: Update(new_record(sandbox_id, spec, cluster="default", now=store.now()))
        )

    await asyncio.gather(*(one(sandbox_id) for sandbox_id in ids))


async def forget(store: Store, sandbox_id: str) -> None:
    await store.create_or_update(sandbox_id, lambda record: Update(None) if record else None)


@pytest.fixture
async def several(api: httpx.AsyncClient, evolve: Evolve, clock: Clock) -> None:
    """Of two users in three threads, in several states; the oldest first by their names."""
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
    ("query", "chosen"),
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
async def test_filters(api: httpx.AsyncClient, query: dict[str, str], chosen: str, limit: int | None):
    """Status, user and thread choose, alone and together, in one answer and in pages, the oldest first."""
    assert "".join(await walked(api, limit, **query)) == chosen


@pytest.mark.parametrize("name", ["user_id", "thread_id"])
async def test_a_user_called_null(api: httpx.AsyncClient, name: str):
    """`null` is the name of a user or a thread like any other, and chooses only theirs."""
    await api.post(LIST, json={"sandbox_id": "a"})
    await api.post(LIST, json={"sandbox_id": "b", name: "null"})
    assert await walked(api, **{name: "null"}) == ["b"]


@pytest.mark.usefixtures("several")
async def test_the_whole_list(api: httpx.AsyncClient):
    """Without parameters everything is in one answer, in the shape that today's client reads."""
    body = (await api.get(LIST)).json()
    assert body.keys() == {"sandboxes", "count"}
    assert body["count"] == 5
    assert [s["sandbox_id"] for s in body["sandboxes"]] == list("abcdg")
    for sandbox in body["sandboxes"]:
        assert sandbox == (await api.get(f"{LIST}/{sandbox['sandbox_id']}")).json()


@pytest.mark.usefixtures("several")
async def test_a_page(api: httpx.AsyncClient):
    """A page has at most `limit` sandboxes, and a cursor unless it is known to be the last."""
    first = (await api.get(LIST, params={"limit": 2})).json()
    assert ([s["sandbox_id"] for s in first["sandboxes"]], first["count"]) == (["a", "b"], 2)
    rest = (await api.get(LIST, params={"cursor": first["next_cursor"]})).json()
    assert [s["sandbox_id"] for s in rest["sandboxes"]] == ["c", "d", "g"]
    assert rest.keys() == {"sandboxes", "count"}


@pytest.mark.usefixtures("several")
async def test_a_cursor_again(api: httpx.AsyncClient):
    """A cursor may be sent again: its page is where it was."""
    cursor = (await api.get(LIST, params={"limit": 2})).json()["next_cursor"]
    again = [(await api.get(LIST, params={"limit": 2, "cursor": cursor})).json() for _ in range(2)]
    assert again[0] == again[1]


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
async def test_bad_parameters(api: httpx.AsyncClient, name: str, value: str):
    """A parameter that breaks its rule is refused with its name."""
    answer = await api.get(LIST, params={name: value})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert (answer.json()["code"], answer.json()["field"]) == ("invalid_request", name)
    assert name in answer.json()["detail"]


@pytest.mark.parametrize("query", ["limit=%FF", "status=%FF", "cursor=%FF", "limit=%00", "cursor=%ED%A0%80"])
async def test_what_is_no_text(api: httpx.AsyncClient, query: str):
    """Bytes that are no text are refused like other rubbish."""
    assert (await api.get(f"{LIST}?{query}")).status_code == 400


@pytest.mark.parametrize("query", ["user_id=%FF", "thread_id=%00", "user_id=" + "a" * 5000, "other=1", "user_id=*"])
async def test_what_nobody_is_called(api: httpx.AsyncClient, query: str):
    """A filter that nobody can meet, or a parameter that we do not know, is no error."""
    answer = await api.get(f"{LIST}?{query}")
    assert (answer.status_code, answer.json()["sandboxes"]) == (200, [])


STEPS = st.lists(
    st.tuples(st.sampled_from(["make", "again", "delete", "forget", "change"]), st.sampled_from("abcdefghij")),
    max_size=4,
)


# The API keeps nothing between two examples but in Redis, which each empties.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    first=st.sets(st.sampled_from("abcdefghij")),
    meanwhile=st.lists(STEPS, max_size=12),
    limit=st.integers(1, 4),
    ticks=st.integers(0, 1),
)
async def test_while_sandboxes_come_and_go(
    api: httpx.AsyncClient,
    fake_redis: FakeAsyncRedis,
    store: Store,
    clock: Clock,
    first: set[str],
    meanwhile: list[list[tuple[str, str]]],
    limit: int,
    ticks: int,
):
    """Whatever happens between pages, a life that is there all the time is seen exactly once, and none twice.

    With a clock that goes on and with one that stands still.
    """
    await fake_redis.flushall()
    for sandbox_id in sorted(first, reverse=True):
        await api.post(LIST, json={"sandbox_id": sandbox_id})
        clock.advance(ticks)
    throughout = {(s["sandbox_id"], s["generation"]) for s in (await api.get(LIST)).json()["sandboxes"]}
    seen: list[tuple[str, int]] = []
    query: dict[str, Any] = {"limit": limit}
    steps = iter(meanwhile)
    while True:
        body = (await api.get(LIST, params=query)).json()
        seen += [(s["sandbox_id"], s["generation"]) for s in body["sandboxes"]]
        if "next_cursor" not in body:
            break
        query["cursor"] = body["next_cursor"]
        for act, sandbox_id in next(steps, []):
            clock.advance(ticks)
            await happen(api, store, act, sandbox_id)
            present = {(s["sandbox_id"], s["generation"]) for s in (await api.get(LIST)).json()["sandboxes"]}
            throughout &= present
    incarnations = [incarnation for incarnation in seen if incarnation in throughout]
    assert sorted(incarnations) == sorted(throughout)
    # A record that is forgotten begins to count its lives anew, so that one number may be two lives.
    forgotten = {sandbox_id for step in meanwhile for act, sandbox_id in step if act == "forget"}
    rest = [incarnation for incarnation in seen if incarnation[0] not in forgotten]
    assert len(set(rest)) == len(rest)


async def happen(api: httpx.AsyncClient, store: Store, act: str, sandbox_id: str) -> None:
    if act in {"delete", "again"}:
        await api.delete(f"{LIST}/{sandbox_id}")
    if act in {"make", "again"}:
        await api.post(LIST, json={"sandbox_id": sandbox_id})
    if act == "forget":
        await forget(store, sandbox_id)
    if act == "change":
        await store.create_or_update(sandbox_id, lambda record: Update(record) if record else None)


@pytest.fixture
async def on_valkey(valkey: ArqRedis, serve: Serve, clock: Clock) -> tuple[httpx.AsyncClient, Store]:
    """An API on the real server, which is quick enough for thousands of records."""
    store = Store(valkey, clock)
    return await serve(store), store


async def test_thousands_made_at_one_time(on_valkey: tuple[httpx.AsyncClient, Store]):
    """Sandboxes of one and the same moment, more than any read brings, have an order all the same."""
    api, store = on_valkey
    ids = [f"s{number:04}" for number in range(1300)]
    await make(store, *ids)
    assert await walked(api, 1000) == await walked(api, 130) == await walked(api) == ids


async def test_few_of_many(on_valkey: tuple[httpx.AsyncClient, Store], clock: Clock):
    """A page looks at no more than so many records: it may be short, even empty, and the next ones have the rest."""
    api, store = on_valkey
    await make(store, "first", thread_id="t")
    clock.advance(1)
    await make(store, *(f"s{number:04}" for number in range(2100)))
    clock.advance(1)
    await make(store, "last", thread_id="t")
    found = [page async for page in pages(api, 10, thread_id="t")]
    assert found[0] == ["first"]
    assert [sandbox_id for page in found for sandbox_id in page] == ["first", "last"]


async def test_our_own_cursors(api: httpx.AsyncClient):
    """A cursor is a place, not a sandbox: it holds where its sandbox is gone, and where none ever was."""
    await api.post(LIST, json={"sandbox_id": "b"})
    assert await walked(api, cursor=str(Cursor(0.0, "zzz"))) == ["b"]
    assert await walked(api, cursor=str(Cursor(1_750_000_000.0, "a"))) == ["b"]
    assert await walked(api, cursor=str(Cursor(1_750_000_000.0, "b"))) == []
    assert await walked(api, cursor=str(Cursor(2e9, ""))) == []
