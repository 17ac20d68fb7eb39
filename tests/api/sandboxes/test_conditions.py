"""Requests with conditions: what a caller has seen of a sandbox, and which of its lives a caller means."""

from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.http.etags import etag, matches, matches_incarnation
from shared.sandbox.record import Reason, Sandbox, Spec, Status, Timings
from shared.sandbox.transitions import new_record
from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import Evolve

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"
TAG = '"1-0a1b2c3d.3"'


def record_of(generation: int = 1, token: str = "0a1b2c3d", revision: int = 3) -> Sandbox:
    record = new_record("abc", Spec(), cluster="default", now=0.0, generation=generation)
    return replace(record, token=token, revision=revision)


async def keys(redis: FakeAsyncRedis) -> dict[bytes, bytes]:
    """All that is in Redis."""
    return {key: await redis.dump(key) for key in await redis.keys()}


@pytest.mark.parametrize(
    ("header", "is_known"),
    [
        (TAG, True),
        (f"W/{TAG}", True),
        (f" {TAG} ", True),
        ("*", True),
        (" * ", True),
        (f'"x", {TAG}', True),
        (f'W/"x",W/{TAG},"y"', True),
        (f"{TAG},", True),
        ('"1-0a1b2c3d.2"', False),
        ('"1-0a1b2c3d.33"', False),
        ('"2-0a1b2c3d.3"', False),
        ('"1-0a1b2c3e.3"', False),
        (TAG.strip('"'), False),
        (TAG[:-1], False),
        (f"w/{TAG}", False),
        ('"*"', False),
        (f"*{TAG}", False),
        ("", False),
        (",", False),
        (None, False),
    ],
)
def test_if_none_match(header: str | None, is_known: bool):
    """A state is known by its very tag, weak or strong, anywhere in a list; `*` knows all."""
    assert matches(header, record_of()) is is_known


@pytest.mark.parametrize(
    ("header", "is_meant"),
    [
        (TAG, True),
        ('"1-0a1b2c3d.1"', True),
        ('"1-0a1b2c3d.99"', True),
        (f"W/{TAG}", True),
        (f'"2-ffffffff.1", {TAG}', True),
        ("*", True),
        ('"2-0a1b2c3d.3"', False),
        ('"1-ffffffff.3"', False),
        ('"1-0a1b2c3d"', False),
        ('"0a1b2c3d.3"', False),
        ('"x"', False),
        ('""', False),
        ("", False),
        (",", False),
    ],
)
def test_if_match(header: str, is_meant: bool):
    """A life is meant by the tag of any of its states."""
    assert matches_incarnation(header, record_of()) is is_meant


GENERATIONS = st.integers(1, 1000)
TOKENS = st.text("0123456789abcdef", min_size=8, max_size=8)
RECORDS = st.builds(record_of, GENERATIONS, TOKENS, st.integers(1, 1000))


@given(RECORDS, RECORDS)
def test_tags_tell_states_apart(one: Sandbox, other: Sandbox):
    """Two states have one tag only if they are the same one, and a tag means its own life only."""
    is_same = (one.incarnation, one.revision) == (other.incarnation, other.revision)
    assert (etag(one) == etag(other)) is matches(etag(one), other) is is_same
    assert matches_incarnation(etag(one), other) is (one.incarnation == other.incarnation)


@given(st.text())
def test_any_text(header: str):
    """Whatever a header says, it neither breaks anything nor means what it does not name."""
    record = record_of()
    assert not matches(header, record) or header.strip() == "*" or etag(record) in header
    assert not matches_incarnation(header, record) or header.strip() == "*" or record.incarnation in header


async def test_each_change_has_its_tag(api: httpx.AsyncClient, evolve: Evolve):
    """Whatever changes in what is shown changes the tag, and looking again does not."""
    changes: list[dict[str, Any]] = [
        {"reason": Reason.QUOTA_EXCEEDED},
        {"message": "wait a bit"},
        {"url": "http://10.0.0.7:30123", "timings": Timings(created=1.0)},
        {"status": Status.RUNNING},
        {"ready": True},
        {"ready": False},
        {"lifetime": 600.0},
    ]
    seen = [(await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]]
    for change in changes:
        await evolve("abc", **change)
        first, again = await api.get(ABC), await api.get(ABC)
        assert first.headers["ETag"] == again.headers["ETag"]
        seen.append(first.headers["ETag"])
    await api.delete(ABC)
    seen.append((await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"])
    assert len(set(seen)) == len(changes) + 2


async def test_a_life_that_redis_forgot(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """A life after Redis lost all has another tag than the life of the same number before."""
    before = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await fake_redis.flushall()
    after = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    assert before != after
    assert (await api.delete(ABC, headers={"If-Match": before})).status_code == 412


async def test_create_tells_the_tag(api: httpx.AsyncClient):
    """The tag of a create is the one that a read has."""
    created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    again = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert created.headers["ETag"] == again.headers["ETag"] == (await api.get(ABC)).headers["ETag"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '{}, "x"', "*"])
async def test_nothing_newer(api: httpx.AsyncClient, form: str):
    """Who knows this very state gets 304, its tag, and nothing else."""
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    answer = await api.get(ABC, headers={"If-None-Match": form.format(tag)})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)


@pytest.mark.parametrize("header", ['"x"', '"1-00000000.1"', "", "rubbish", ",,,", '"' * 1000])
async def test_something_newer(api: httpx.AsyncClient, header: str):
    """Who knows another state, or none that can be read, gets the present one."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    answer = await api.get(ABC, headers={"If-None-Match": header})
    assert (answer.status_code, answer.json()["sandbox_id"]) == (200, "abc")


async def test_known_or_not_what_is_gone_is_gone(api: httpx.AsyncClient):
    """What is not there is 404, whatever the caller knows."""
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await api.delete(ABC)
    for header in (tag, "*"):
        assert (await api.get(ABC, headers={"If-None-Match": header})).status_code == 404


async def begun_again(api: httpx.AsyncClient) -> str:
    """The tag of a first life, which a second one has followed."""
    tag: str = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await api.delete(ABC)
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    return tag


@pytest.mark.parametrize("state", ["pending", "running", "failed", "terminating"])
@pytest.mark.parametrize("how", ["If-Match", "weak If-Match", "generation", "both", "rubbish"])
async def test_a_later_life(api: httpx.AsyncClient, evolve: Evolve, fake_redis: FakeAsyncRedis, how: str, state: str):
    """A delete that means an earlier life is refused, tells which life there is, and changes nothing at all."""
    tag = await begun_again(api)
    if state == "terminating":
        await api.delete(ABC)
    else:
        await evolve("abc", status=Status(state.capitalize()))
    before = await keys(fake_redis)
    headers, query = {
        "If-Match": ({"If-Match": tag}, ""),
        "weak If-Match": ({"If-Match": f'"x", W/{tag}'}, ""),
        "generation": ({}, "?generation=1"),
        "both": ({"If-Match": tag}, "?generation=2"),
        "rubbish": ({"If-Match": "rubbish"}, ""),
    }[how]
    answer = await api.delete(ABC + query, headers=headers)
    assert answer.status_code == 412
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["generation"]) == ("incarnation_mismatch", 2)
    assert await keys(fake_redis) == before


@pytest.mark.parametrize("wait", ["", "wait=60"])
async def test_a_later_life_is_not_waited_for(api: httpx.AsyncClient, wait: str):
    """A delete that is refused is refused at once."""
    tag = await begun_again(api)
    assert (await api.delete(ABC, headers={"If-Match": tag, "Prefer": wait})).status_code == 412


async def test_the_same_life(api: httpx.AsyncClient, evolve: Evolve, store: Store):
    """A delete that means the present life takes it, also after it has changed, and again while it goes."""
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await evolve("abc", status=Status.RUNNING, ready=True)
    for _ in range(2):
        answer = await api.delete(f"{ABC}?generation=1", headers={"If-Match": tag})
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    record = await store.get("abc")
    assert record is not None
    assert record.status is Status.TERMINATING


@pytest.mark.parametrize("query", ["", "?generation=1", "?generation=7"])
@pytest.mark.parametrize("header", [None, "*", TAG, "rubbish"])
async def test_unknown(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, query: str, header: str | None):
    """To delete what is not there is done already, whichever life was meant."""
    answer = await api.delete(ABC + query, headers={} if header is None else {"If-Match": header})
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert await fake_redis.keys() == []


async def test_a_life_that_is_gone(api: httpx.AsyncClient, store: Store):
    """To delete a life whose record is gone is done already."""
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await store.create_or_update("abc", lambda record: Update(None) if record else None)
    assert (await api.delete(ABC, headers={"If-Match": tag})).status_code == 200


@pytest.mark.parametrize("generation", ["0", "-1", "x", "", "1.5", "null", "9" * 5000, "1%00", "%FF", "%ED%A0%80"])
async def test_a_bad_generation(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, generation: str):
    """A generation that can be none is refused, and nothing is deleted."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    before = await keys(fake_redis)
    answer = await api.delete(f"{ABC}?generation={generation}")
    assert (answer.status_code, answer.json()["field"]) == (400, "generation")
    assert await keys(fake_redis) == before
