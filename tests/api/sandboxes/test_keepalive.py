"""Who uses a sandbox keeps it: by making it, by asking for it, or by saying so."""

import asyncio
import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.sandboxes.updates import TOUCH_INTERVAL_SECONDS, needs_touch
from api.state.usage import UsageTracker
from shared.errors import StoreUnavailable
from shared.sandbox.expiry import ExpiryPolicy
from shared.sandbox.record import ExpiryCause, Reason, Spec, Status
from shared.sandbox.transitions import expired, new_record
from shared.store.store import Store
from shared.store.update import Mutate, Update, UpdateResult
from tests.api.conftest import Evolve, Serve
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"
KEEP = f"{ABC}/keepalive"
TIMES = {"SANDBOX_IDLE_TIMEOUT_SECONDS": "1000", "SANDBOX_MAX_LIFETIME_SECONDS": "5000"}
BODY = {"sandbox_id": "abc"}


@pytest.fixture
async def api(serve: Serve) -> httpx.AsyncClient:
    return await serve(**TIMES)


async def last_used(store: Store) -> float:
    """Once what was begun beside the answers has been written."""
    for _ in range(50):
        await asyncio.sleep(0)
    record = await store.get("abc")
    assert record is not None
    return record.last_used_at


async def until_used(store: Store, at: float) -> None:
    async with asyncio.timeout(10):
        while await last_used(store) < at:
            await asyncio.sleep(0.001)


def left(answer: httpx.Response, clock: Clock) -> tuple[float, str]:
    """For how long it is kept, and what then ends it."""
    body = answer.json()
    return datetime.fromisoformat(body["expires_at"]).timestamp() - clock.now, body["expires_by"]


async def test_keep_alive(api: httpx.AsyncClient, clock: Clock):
    """It is used now, and has its idle timeout anew; the answer is the sandbox."""
    created = await api.post("/api/sandboxes", json=BODY)
    assert left(created, clock) == (1000, "idle")
    clock.advance(900)
    kept = await api.post(KEEP)
    assert (kept.status_code, left(kept, clock)) == (200, (1000, "idle"))
    assert kept.json().keys() == created.json().keys()
    assert left(await api.get(ABC), clock) == (1000, "idle")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"seconds": null}', b'{"a_newer_field": 1}'])
async def test_nothing_has_to_be_said(api: httpx.AsyncClient, clock: Clock, body: bytes):
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(100)
    answer = await api.post(KEEP, content=body)
    assert (answer.status_code, left(answer, clock)) == (200, (1000, "idle"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, (1000, "idle")), (1500, (1500, "idle")), (4000, (4000, "idle")), (4001, (4000, "lifetime"))],
)
async def test_for_so_long(api: httpx.AsyncClient, clock: Clock, seconds: int, expected: tuple[float, str]):
    """At least for so long as is asked, never beyond the lifetime, and not shorter than it would be kept anyway."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1000)
    assert left(await api.post(KEEP, json={"seconds": seconds}), clock) == expected


async def test_less_later_takes_nothing_away(api: httpx.AsyncClient, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    await api.post(KEEP, json={"seconds": 3000})
    clock.advance(40)
    assert left(await api.post(KEEP, json={"seconds": 10}), clock) == (2960, "idle")
    assert left(await api.get(ABC), clock) == (2960, "idle")


BAD = [-1, 0, 1.5, 10**20, 31_536_001, True, False, "60", "", [60], {"n": 1}, 1e400]


def as_json(field: str, value: Any) -> bytes:
    return json.dumps({field: value}).replace("Infinity", "1e400").encode()


@pytest.mark.parametrize("value", BAD, ids=repr)
async def test_seconds_that_are_none(api: httpx.AsyncClient, store: Store, value: Any):
    """Negative, huge, fractional, not a number: refused, the field is named, and nothing is written."""
    await api.post("/api/sandboxes", json=BODY)
    before = await store.get("abc")
    answer = await api.post(KEEP, content=as_json("seconds", value))
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (400, "invalid_request", "seconds")
    assert await store.get("abc") == before


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("field", ["idle_timeout_seconds", "lifetime_seconds"])
async def test_times_that_are_none(serve: Serve, store: Store, field: str, value: Any):
    """As of a keep-alive; also when the settings allow any time."""
    api = await serve(**dict.fromkeys((*TIMES, "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS"), "0"))
    body = as_json(field, value)
    answer = await api.post("/api/sandboxes", content=body.replace(b"{", b'{"sandbox_id": "abc", ', 1))
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (400, "invalid_request", field)
    assert await store.get("abc") is None


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"\xff", b'"60"', b"60"])
async def test_a_body_that_is_none(api: httpx.AsyncClient, body: bytes):
    await api.post("/api/sandboxes", json=BODY)
    answer = await api.post(KEEP, content=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")


# What a create may choose


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"idle_timeout_seconds": 7}, (7, "idle")),
        ({"idle_timeout_seconds": 2000}, (2000, "idle")),
        ({"lifetime_seconds": 60}, (60, "lifetime")),
        ({"idle_timeout_seconds": 2000, "lifetime_seconds": 5000}, (2000, "idle")),
        ({"idle_timeout_seconds": None, "lifetime_seconds": None}, (1000, "idle")),
    ],
)
async def test_chosen(serve: Serve, clock: Clock, asked: dict[str, Any], expected: tuple[float, str]):
    """Lower ones, and higher idle timeouts up to their maximum."""
    api = await serve(**TIMES, SANDBOX_MAX_IDLE_TIMEOUT_SECONDS="2000")
    assert left(await api.post("/api/sandboxes", json={**BODY, **asked}), clock) == expected


@pytest.mark.parametrize(("field", "value"), [("idle_timeout_seconds", 2001), ("lifetime_seconds", 5001)])
async def test_beyond_the_maximum(serve: Serve, store: Store, field: str, value: int):
    """Refused, with the field and the setting that says so."""
    api = await serve(**TIMES, SANDBOX_MAX_IDLE_TIMEOUT_SECONDS="2000")
    answer = await api.post("/api/sandboxes", json={**BODY, field: value})
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert "SANDBOX_MAX_" in answer.json()["detail"]
    assert await store.get("abc") is None


async def test_switched_off(serve: Serve):
    """0 in the settings: no end, and none is shown."""
    api = await serve(SANDBOX_IDLE_TIMEOUT_SECONDS="0", SANDBOX_MAX_LIFETIME_SECONDS="0")
    shown = (await api.post("/api/sandboxes", json=BODY)).json()
    assert (shown["expires_at"], shown["expires_by"]) == (None, None)
    assert (await api.post(KEEP, json={"seconds": 60})).json()["expires_at"] is None


# What is not there


async def test_unknown(api: httpx.AsyncClient):
    answer = await api.post(KEEP)
    assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")


async def test_being_deleted(api: httpx.AsyncClient):
    await api.post("/api/sandboxes", json=BODY)
    await api.delete(ABC)
    answer = await api.post(KEEP, json={"seconds": 60})
    assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")
    assert answer.json()["status"] == "Terminating"


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED])
async def test_over(api: httpx.AsyncClient, evolve: Evolve, status: Status):
    """With the cause, which a GET shows as well."""
    await api.post("/api/sandboxes", json=BODY)
    await evolve("abc", status=status, reason=Reason.OUT_OF_MEMORY, message="It needed more.")
    answer = await api.post(KEEP)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (404, "sandbox_not_found", status)
    assert problem["reason"] == "OutOfMemory"
    assert "It needed more." in problem["detail"]


async def expire(store: Store, by: ExpiryCause) -> None:
    await store.create_or_update("abc", lambda r: Update(expired(r, by, store.now())) if r else None)


@pytest.mark.parametrize("by", ExpiryCause)
@pytest.mark.parametrize(("method", "path"), [("GET", ABC), ("POST", KEEP)])
async def test_expired(api: httpx.AsyncClient, store: Store, clock: Clock, method: str, path: str, by: ExpiryCause):
    """While its Pod goes, and for a while after that, whoever asks is told that its time was over, when, and which."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1.5)
    await expire(store, by)
    going = await api.request(method, path)
    await store.create_or_update("abc", lambda _: Update(None))
    gone = await api.request(method, path)
    for answer in (going, gone):
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (404, "sandbox_expired")
        assert (problem["expired_at"], problem["expired_by"]) == ("2025-06-15T15:06:41.500000Z", by)
    assert (going.json()["status"], gone.json()["status"]) == ("Terminating", 404)
    assert (await api.get("/api/sandboxes")).json()["count"] == 0


async def test_after_ten_minutes(api: httpx.AsyncClient, store: Store, fake_redis: FakeAsyncRedis):
    """What was told for ten minutes is forgotten: then there is simply no such sandbox."""
    await api.post("/api/sandboxes", json=BODY)
    await expire(store, ExpiryCause.IDLE)
    await store.create_or_update("abc", lambda _: Update(None))
    await fake_redis.expire("sandbox:abc:tombstone", 0)
    assert (await api.get(ABC)).json()["code"] == "sandbox_not_found"


async def test_a_new_life_after_the_end(api: httpx.AsyncClient, store: Store, clock: Clock):
    """The id may be used at once, and has all its time."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1000)
    await expire(store, ExpiryCause.IDLE)
    again = await api.post("/api/sandboxes", json=BODY)
    assert (again.status_code, again.json()["generation"], left(again, clock)) == (202, 2, (1000, "idle"))


async def test_in_time_after_all(api: httpx.AsyncClient, clock: Clock):
    """Over its time, and not yet ended: who uses it then keeps it."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1001)
    assert left(await api.post(KEEP), clock) == (1000, "idle")


# Touches


async def test_what_is_a_use(api: httpx.AsyncClient, store: Store, clock: Clock):
    """To make it and to ask for it; not to list, nor to read what happened to it."""
    await api.post("/api/sandboxes", json=BODY)
    for ask in (
        lambda: api.post("/api/sandboxes", json=BODY),
        lambda: api.get(ABC),
        lambda: api.get(ABC, headers={"If-None-Match": "*"}),
    ):
        clock.advance(TOUCH_INTERVAL_SECONDS)
        await ask()
        await until_used(store, clock.now)
    used = clock.now
    for path in ("/api/sandboxes", "/api/sandboxes?limit=10", f"{ABC}/events", "/health", "/api/capabilities"):
        clock.advance(TOUCH_INTERVAL_SECONDS)
        assert (await api.get(path)).status_code == 200
    assert await last_used(store) == used


async def test_a_touch_is_written_at_most_so_often(api: httpx.AsyncClient, store: Store, clock: Clock):
    """However often a sandbox is asked for."""
    await api.post("/api/sandboxes", json=BODY)
    begun, seen = clock.now, set()
    for _ in range(100):
        clock.advance(1)
        await api.get(ABC)
        seen.add(await last_used(store) - begun)
    assert seen == {0, 30, 60, 90}


async def test_a_touch_is_no_change(api: httpx.AsyncClient, store: Store, clock: Clock):
    """What is shown keeps its tag and its date; only its end is another."""
    first = await api.post("/api/sandboxes", json=BODY)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    await api.get(ABC)
    await until_used(store, clock.now)
    after = await api.get(ABC)
    assert after.headers["ETag"] == first.headers["ETag"]
    assert {**after.json(), "expires_at": None} == {**first.json(), "expires_at": None}
    assert after.json()["expires_at"] > first.json()["expires_at"]
    kept = await api.post(KEEP, json={"seconds": 2000})
    assert kept.json()["updated_at"] == first.json()["updated_at"]
    assert [event["reason"] for event in (await api.get(f"{ABC}/events")).json()["events"]] == ["Accepted"]


async def test_a_touch_says_nothing_of_progress(api: httpx.AsyncClient, store: Store, clock: Clock):
    """A create whose job was lost is looked at again in its time, though somebody asks for it all the while."""
    await api.post("/api/sandboxes", json={**BODY, "idle_timeout_seconds": 8})
    before = await store.get("abc")
    for _ in range(5):
        clock.advance(2.5)
        await api.get(ABC)
        await until_used(store, clock.now)
    after = await store.get("abc")
    assert before is not None
    assert after is not None
    assert after.due_at == before.created_at + 15


class Slow(Store):
    """Of which a write ends only when it may, or fails; reads are as ever."""

    def __init__(self, redis: FakeAsyncRedis, clock: Clock) -> None:
        super().__init__(redis, clock)
        self.writes = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def create_or_update(self, sandbox_id: str, mutate: Mutate, **options: Any) -> UpdateResult:
        if mutate.__qualname__.startswith("record_use"):
            self.writes += 1
            await self.may_end.wait()
            if self.error:
                raise self.error
        return await super().create_or_update(sandbox_id, mutate, **options)


async def test_no_answer_waits_for_a_touch(serve: Serve, fake_redis: FakeAsyncRedis, clock: Clock):
    """However slow the write is; of many answers meanwhile there is one; it is written in the end."""
    slow = Slow(fake_redis, clock)
    api = await serve(slow, **TIMES)
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    answers = [await api.get(ABC) for _ in range(10)]
    before = await last_used(slow)
    slow.may_end.set()
    assert {answer.status_code for answer in answers} == {200}
    assert before == clock.now - TOUCH_INTERVAL_SECONDS
    await until_used(slow, clock.now)
    assert slow.writes == 1


async def test_a_touch_that_fails_is_let_go(fake_redis: FakeAsyncRedis, clock: Clock):
    """The next use comes soon."""
    slow = Slow(fake_redis, clock)
    record = new_record("abc", Spec(), cluster="default", now=clock.now, policy=ExpiryPolicy(1000, 0))
    await slow.create_or_update("abc", lambda _: Update(record))
    slow.error = StoreUnavailable(OSError("away"))
    slow.may_end.set()
    clock.advance(TOUCH_INTERVAL_SECONDS)
    uses = UsageTracker(slow)
    async with uses.running():
        uses.record_use(record)
    slow.error = None
    async with uses.running():
        uses.record_use(record)
    assert slow.writes == 2
    assert await last_used(slow) == clock.now


async def test_what_was_begun_is_written_before_the_end(fake_redis: FakeAsyncRedis, clock: Clock):
    """A process that is told to stop loses no touch."""
    slow = Slow(fake_redis, clock)
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    await slow.create_or_update("abc", lambda _: Update(record))
    clock.advance(TOUCH_INTERVAL_SECONDS)
    uses = UsageTracker(slow)
    async with uses.running():
        uses.record_use(record)
        asyncio.get_running_loop().call_soon(slow.may_end.set)
    assert await last_used(slow) == clock.now


async def test_a_touch_of_an_earlier_life(clock: Clock, store: Store):
    """What comes late for one life keeps no later one."""
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    later = new_record("abc", Spec(), cluster="default", now=clock.now, generation=2)
    await store.create_or_update("abc", lambda _: Update(later))
    clock.advance(TOUCH_INTERVAL_SECONDS)
    uses = UsageTracker(store)
    async with uses.running():
        uses.record_use(record)
    assert await last_used(store) == later.last_used_at


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_one_that_is_used_never_ends_as_idle(idle_timeout: int, unnoted: int):
    """A use that is not worth a touch leaves at least three quarters of the idle timeout."""
    now = 1_750_000_000.0
    record = new_record("abc", Spec(), cluster="default", now=now, policy=ExpiryPolicy(float(idle_timeout), 0))
    if not needs_touch(record, now + unnoted) and record.expiry:
        assert record.expiry.at - (now + unnoted) >= idle_timeout * 3 / 4


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED, Status.TERMINATING])
def test_what_is_over_is_not_touched(status: Status):
    record = new_record("abc", Spec(), cluster="default", now=0.0)
    assert needs_touch(record, 1e6)
    assert not needs_touch(replace(record, status=status), 1e6)
