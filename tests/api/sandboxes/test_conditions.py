"""Conditional requests: reads with `If-None-Match`, deletes with `If-Match` or `generation`."""

from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given
from hypothesis import strategies as st

from api.http.etags import etag, matches, matches_incarnation
from shared.sandbox.record import Reason, Sandbox, Status, Timings
from shared.store.store import Store
from tests.api.conftest import Api, Evolve
from tests.support.records import record_of
from tests.support.store import remove

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"
TAG = '"1-0a1b2c3d.3"'


def revision_of(generation: int = 1, token: str = "0a1b2c3d", revision: int = 3) -> Sandbox:
    return record_of("abc", generation=generation, token=token, revision=revision)


async def keys(redis: FakeAsyncRedis) -> dict[bytes, bytes]:
    """Return all keys of Redis with their values."""
    return {key: await redis.dump(key) for key in await redis.keys()}


@pytest.mark.parametrize(
    ("header", "is_match"),
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
def test_if_none_match_matches_only_the_tag_of_this_revision(header: str | None, is_match: bool):
    """The tag may be weak, and anywhere in a list; `*` matches any."""
    assert matches(header, revision_of()) is is_match


@pytest.mark.parametrize(
    ("header", "is_match"),
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
def test_if_match_matches_any_tag_of_this_incarnation(header: str, is_match: bool):
    assert matches_incarnation(header, revision_of()) is is_match


GENERATIONS = st.integers(1, 1000)
TOKENS = st.text("0123456789abcdef", min_size=8, max_size=8)
RECORDS = st.builds(revision_of, GENERATIONS, TOKENS, st.integers(1, 1000))


@given(RECORDS, RECORDS)
def test_tags_are_equal_only_for_the_same_revision(one: Sandbox, other: Sandbox):
    is_same = (one.incarnation, one.revision) == (other.incarnation, other.revision)
    assert (etag(one) == etag(other)) is matches(etag(one), other) is is_same
    assert matches_incarnation(etag(one), other) is (one.incarnation == other.incarnation)


@given(st.text())
def test_any_header_text_matches_only_what_it_names(header: str):
    record = revision_of()
    assert not matches(header, record) or header.strip() == "*" or etag(record) in header
    assert not matches_incarnation(header, record) or header.strip() == "*" or record.incarnation in header


async def test_each_change_of_a_sandbox_changes_the_tag(api: Api, evolve: Evolve):
    """A second read does not."""
    changes: list[dict[str, Any]] = [
        {"reason": Reason.QUOTA_EXCEEDED},
        {"message": "wait a bit"},
        {"url": "http://10.0.0.7:30123", "timings": Timings(created=1.0)},
        {"status": Status.RUNNING},
        {"ready": True},
        {"ready": False},
        {"lifetime": 600.0},
    ]
    tags = [(await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]]
    for change in changes:
        await evolve("abc", **change)
        first, second = await api.get(ABC), await api.get(ABC)
        assert first.headers["ETag"] == second.headers["ETag"]
        tags.append(first.headers["ETag"])
    await api.delete(ABC)
    tags.append((await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"])
    assert len(set(tags)) == len(changes) + 2


async def test_incarnation_after_a_flush_has_another_tag_than_before(api: Api, fake_redis: FakeAsyncRedis):
    """Both have the same generation."""
    before = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await fake_redis.flushall()
    after = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    assert before != after
    assert (await api.delete(ABC, headers={"If-Match": before})).status_code == 412


async def test_create_returns_the_tag_that_a_read_returns(api: Api):
    created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    repeated = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert created.headers["ETag"] == repeated.headers["ETag"] == (await api.get(ABC)).headers["ETag"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '{}, "x"', "*"])
async def test_read_with_the_present_tag_is_304_without_a_body(api: Api, form: str):
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    answer = await api.get(ABC, headers={"If-None-Match": form.format(tag)})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)


@pytest.mark.parametrize("header", ['"x"', '"1-00000000.1"', "", "rubbish", ",,,", '"' * 1000])
async def test_read_with_another_tag_or_none_returns_the_sandbox(api: Api, header: str):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    answer = await api.get(ABC, headers={"If-None-Match": header})
    assert (answer.status_code, answer.json()["sandbox_id"]) == (200, "abc")


async def test_read_with_a_tag_of_a_deleted_sandbox_is_404(api: Api):
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await api.delete(ABC)
    for header in (tag, "*"):
        assert (await api.get(ABC, headers={"If-None-Match": header})).status_code == 404


async def create_second_incarnation(api: Api) -> str:
    """Create an id twice, and return the tag of its first incarnation."""
    tag: str = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await api.delete(ABC)
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    return tag


@pytest.mark.parametrize("state", ["pending", "running", "failed", "terminating"])
@pytest.mark.parametrize("condition", ["If-Match", "weak If-Match", "generation", "both", "rubbish"])
async def test_delete_of_an_earlier_incarnation_is_412_and_changes_nothing(
    api: Api, evolve: Evolve, fake_redis: FakeAsyncRedis, condition: str, state: str
):
    """The problem names the present generation."""
    tag = await create_second_incarnation(api)
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
    }[condition]
    answer = await api.delete(ABC + query, headers=headers)
    assert answer.status_code == 412
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["generation"]) == ("incarnation_mismatch", 2)
    assert await keys(fake_redis) == before


@pytest.mark.parametrize("wait", ["", "wait=60"])
async def test_waiting_delete_of_an_earlier_incarnation_is_412_at_once(api: Api, wait: str):
    tag = await create_second_incarnation(api)
    assert (await api.delete(ABC, headers={"If-Match": tag, "Prefer": wait})).status_code == 412


async def test_delete_of_the_present_incarnation_is_accepted(api: Api, evolve: Evolve, store: Store):
    """Also after a change, and again while the sandbox terminates."""
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
async def test_conditional_delete_of_a_missing_sandbox_is_200(
    api: Api, fake_redis: FakeAsyncRedis, query: str, header: str | None
):
    answer = await api.delete(ABC + query, headers={} if header is None else {"If-Match": header})
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert await fake_redis.keys() == []


async def test_conditional_delete_of_a_removed_sandbox_is_200(api: Api, store: Store):
    tag = (await api.post("/api/sandboxes", json={"sandbox_id": "abc"})).headers["ETag"]
    await remove(store, "abc")
    assert (await api.delete(ABC, headers={"If-Match": tag})).status_code == 200


@pytest.mark.parametrize("generation", ["0", "-1", "x", "", "1.5", "null", "9" * 5000, "1%00", "%FF", "%ED%A0%80"])
async def test_delete_with_a_bad_generation_is_refused_and_deletes_nothing(
    api: Api, fake_redis: FakeAsyncRedis, generation: str
):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    before = await keys(fake_redis)
    answer = await api.delete(f"{ABC}?generation={generation}")
    assert (answer.status_code, answer.json()["field"]) == (400, "generation")
    assert await keys(fake_redis) == before
