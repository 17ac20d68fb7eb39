"""Uses of a sandbox: a create, a read and a keep-alive reset its idle timer."""

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

from api.state.usage import TOUCH_INTERVAL_SECONDS, UsageTracker, needs_touch
from shared.errors import StoreUnavailable
from shared.sandbox.expiry import ExpiryPolicy
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import expired, new_record
from shared.store.store import Store
from shared.store.update import Mutate, Precondition, UpdateResult
from tests.api.conftest import Api, Evolve, Serve
from tests.conftest import Clock
from tests.support.eventually import eventually
from tests.support.store import put, remove

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"
KEEP = f"{ABC}/keepalive"
TIMES = {"SANDBOX_IDLE_TIMEOUT_SECONDS": "1000", "SANDBOX_MAX_LIFETIME_SECONDS": "5000"}
BODY = {"sandbox_id": "abc"}


@pytest.fixture
async def api(serve: Serve) -> Api:
    return await serve(**TIMES)


async def last_used(store: Store) -> float:
    """Return the last use, after the writes that run beside the answers."""
    for _ in range(50):
        await asyncio.sleep(0)
    record = await store.get("abc")
    assert record is not None
    return record.last_used_at


async def until_used(store: Store, used_at: float) -> None:
    async def is_used() -> bool:
        return await last_used(store) >= used_at

    await eventually(is_used, "the use is stored")


def expiry_of(response: httpx.Response, clock: Clock) -> tuple[float, str]:
    """Return the seconds until the sandbox expires, and the cause."""
    body = response.json()
    return datetime.fromisoformat(body["expires_at"]).timestamp() - clock.now, body["expires_by"]


async def test_keep_alive_resets_the_idle_timer(api: Api, clock: Clock):
    """The answer is the sandbox."""
    created = await api.post("/api/sandboxes", json=BODY)
    assert expiry_of(created, clock) == (1000, "idle")
    clock.advance(900)
    response = await api.post(KEEP)
    assert (response.status_code, expiry_of(response, clock)) == (200, (1000, "idle"))
    assert response.json().keys() == created.json().keys()
    assert expiry_of(await api.get(ABC), clock) == (1000, "idle")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"seconds": null}', b'{"a_newer_field": 1}'])
async def test_keep_alive_needs_no_body(api: Api, clock: Clock, body: bytes):
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(100)
    response = await api.post(KEEP, content=body)
    assert (response.status_code, expiry_of(response, clock)) == (200, (1000, "idle"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, (1000, "idle")), (1500, (1500, "idle")), (4000, (4000, "idle")), (4001, (4000, "lifetime"))],
)
async def test_keep_alive_with_seconds_keeps_at_least_that_long(
    api: Api, clock: Clock, seconds: int, expected: tuple[float, str]
):
    """Never beyond the lifetime, and never shorter than the idle timeout."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1000)
    assert expiry_of(await api.post(KEEP, json={"seconds": seconds}), clock) == expected


async def test_shorter_keep_alive_leaves_a_longer_one_in_force(api: Api, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    await api.post(KEEP, json={"seconds": 3000})
    clock.advance(40)
    assert expiry_of(await api.post(KEEP, json={"seconds": 10}), clock) == (2960, "idle")
    assert expiry_of(await api.get(ABC), clock) == (2960, "idle")


BAD = [-1, 0, 1.5, 10**20, 31_536_001, True, False, "60", "", [60], {"n": 1}, 1e400]


def as_json(field: str, value: Any) -> bytes:
    return json.dumps({field: value}).replace("Infinity", "1e400").encode()


@pytest.mark.parametrize("value", BAD, ids=repr)
async def test_keep_alive_with_bad_seconds_is_refused_and_writes_nothing(api: Api, store: Store, value: Any):
    await api.post("/api/sandboxes", json=BODY)
    before = await store.get("abc")
    response = await api.post(KEEP, content=as_json("seconds", value))
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (400, "invalid_request", "seconds")
    assert await store.get("abc") == before


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("field", ["idle_timeout_seconds", "lifetime_seconds"])
async def test_create_with_a_bad_time_is_refused_and_writes_nothing(serve: Serve, store: Store, field: str, value: Any):
    """Also if the settings allow any time."""
    api = await serve(**dict.fromkeys((*TIMES, "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS"), "0"))
    body = as_json(field, value)
    response = await api.post("/api/sandboxes", content=body.replace(b"{", b'{"sandbox_id": "abc", ', 1))
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (400, "invalid_request", field)
    assert await store.get("abc") is None


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"\xff", b'"60"', b"60"])
async def test_keep_alive_with_a_body_that_is_no_object_is_refused(api: Api, body: bytes):
    await api.post("/api/sandboxes", json=BODY)
    response = await api.post(KEEP, content=body)
    assert (response.status_code, response.json()["field"]) == (400, "body")


# What a create may choose


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"idle_timeout_seconds": 7}, (7, "idle")),
        ({"idle_timeout_seconds": 2000}, (2000, "idle")),
        ({"lifetime_seconds": 60}, (60, "lifetime")),
        ({"idle_timeout_seconds": 2000, "lifetime_seconds": 5000}, (2000, "idle")),
        ({"idle_timeout_seconds": None, "lifetime_seconds": None}, (1000, "idle")),
    ],
)
async def test_create_can_choose_times_within_the_maxima(
    serve: Serve, clock: Clock, fields: dict[str, Any], expected: tuple[float, str]
):
    api = await serve(**TIMES, SANDBOX_MAX_IDLE_TIMEOUT_SECONDS="2000")
    assert expiry_of(await api.post("/api/sandboxes", json={**BODY, **fields}), clock) == expected


@pytest.mark.parametrize(("field", "value"), [("idle_timeout_seconds", 2001), ("lifetime_seconds", 5001)])
async def test_create_with_a_time_beyond_its_maximum_is_refused(serve: Serve, store: Store, field: str, value: int):
    """The problem names the field and the setting."""
    api = await serve(**TIMES, SANDBOX_MAX_IDLE_TIMEOUT_SECONDS="2000")
    response = await api.post("/api/sandboxes", json={**BODY, field: value})
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert "SANDBOX_MAX_" in response.json()["detail"]
    assert await store.get("abc") is None


async def test_sandbox_without_times_never_expires(serve: Serve):
    """0 in the settings turns a time off."""
    api = await serve(SANDBOX_IDLE_TIMEOUT_SECONDS="0", SANDBOX_MAX_LIFETIME_SECONDS="0")
    shown = (await api.post("/api/sandboxes", json=BODY)).json()
    assert (shown["expires_at"], shown["expires_by"]) == (None, None)
    assert (await api.post(KEEP, json={"seconds": 60})).json()["expires_at"] is None


# Sandboxes that callers cannot see


async def test_keep_alive_of_a_missing_sandbox_is_404(api: Api):
    response = await api.post(KEEP)
    assert (response.status_code, response.json()["code"]) == (404, "sandbox_not_found")


async def test_keep_alive_of_a_deleted_sandbox_is_404(api: Api):
    await api.post("/api/sandboxes", json=BODY)
    await api.delete(ABC)
    response = await api.post(KEEP, json={"seconds": 60})
    assert (response.status_code, response.json()["code"]) == (404, "sandbox_not_found")
    assert response.json()["status"] == "Terminating"


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED])
async def test_keep_alive_of_an_ended_sandbox_is_404_with_the_cause(api: Api, evolve: Evolve, status: Status):
    await api.post("/api/sandboxes", json=BODY)
    await evolve("abc", status=status, reason=Reason.OUT_OF_MEMORY, message="It needed more.")
    response = await api.post(KEEP)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["status"]) == (404, "sandbox_not_found", status)
    assert problem["reason"] == "OutOfMemory"
    assert "It needed more." in problem["detail"]


async def expire(store: Store, cause: ExpiryCause) -> None:
    await store.update("abc", lambda record: expired(record, cause, store.now()))


@pytest.mark.parametrize("by", ExpiryCause)
@pytest.mark.parametrize(("method", "path"), [("GET", ABC), ("POST", KEEP)])
async def test_expired_sandbox_is_404_with_time_and_cause(
    api: Api, store: Store, clock: Clock, method: str, path: str, by: ExpiryCause
):
    """While its Pod terminates, and for a while after that."""
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1.5)
    await expire(store, by)
    terminating = await api.request(method, path)
    await remove(store, "abc")
    removed = await api.request(method, path)
    for response in (terminating, removed):
        problem = response.json()
        assert (response.status_code, problem["code"]) == (404, "sandbox_expired")
        assert (problem["expired_at"], problem["expired_by"]) == ("2025-06-15T15:06:41.500000Z", by)
    assert (terminating.json()["status"], removed.json()["status"]) == ("Terminating", 404)
    assert (await api.get("/api/sandboxes")).json()["count"] == 0


async def test_expired_sandbox_is_unknown_when_its_tombstone_is_gone(
    api: Api, store: Store, fake_redis: FakeAsyncRedis
):
    await api.post("/api/sandboxes", json=BODY)
    await expire(store, ExpiryCause.IDLE)
    await remove(store, "abc")
    await fake_redis.expire("sandbox:abc:tombstone", 0)
    assert (await api.get(ABC)).json()["code"] == "sandbox_not_found"


async def test_create_after_expiry_starts_an_incarnation_with_full_times(api: Api, store: Store, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1000)
    await expire(store, ExpiryCause.IDLE)
    created = await api.post("/api/sandboxes", json=BODY)
    assert (created.status_code, created.json()["generation"], expiry_of(created, clock)) == (202, 2, (1000, "idle"))


async def test_keep_alive_after_expiry_and_before_the_sweep_keeps_the_sandbox(api: Api, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(1001)
    assert expiry_of(await api.post(KEEP), clock) == (1000, "idle")


# Stored uses


async def test_create_and_read_are_uses_and_other_requests_are_not(api: Api, store: Store, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    for send in (
        lambda: api.post("/api/sandboxes", json=BODY),
        lambda: api.get(ABC),
        lambda: api.get(ABC, headers={"If-None-Match": "*"}),
    ):
        clock.advance(TOUCH_INTERVAL_SECONDS)
        await send()
        await until_used(store, clock.now)
    used_at = clock.now
    for path in ("/api/sandboxes", "/api/sandboxes?limit=10", f"{ABC}/events", "/health", "/api/capabilities"):
        clock.advance(TOUCH_INTERVAL_SECONDS)
        assert (await api.get(path)).status_code == 200
    assert await last_used(store) == used_at


async def test_use_is_stored_at_most_every_30_seconds(api: Api, store: Store, clock: Clock):
    await api.post("/api/sandboxes", json=BODY)
    started_at, ages = clock.now, set()
    for _ in range(100):
        clock.advance(1)
        await api.get(ABC)
        ages.add(await last_used(store) - started_at)
    assert ages == {0, 30, 60, 90}


async def test_use_changes_neither_etag_nor_updated_at(api: Api, store: Store, clock: Clock):
    """Only the expiry moves."""
    first = await api.post("/api/sandboxes", json=BODY)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    await api.get(ABC)
    await until_used(store, clock.now)
    after = await api.get(ABC)
    assert after.headers["ETag"] == first.headers["ETag"]
    assert {**after.json(), "expires_at": None} == {**first.json(), "expires_at": None}
    assert after.json()["expires_at"] > first.json()["expires_at"]
    response = await api.post(KEEP, json={"seconds": 2000})
    assert response.json()["updated_at"] == first.json()["updated_at"]
    assert [event["reason"] for event in (await api.get(f"{ABC}/events")).json()["events"]] == ["Accepted"]


async def test_use_does_not_delay_the_retry_of_a_stalled_create(api: Api, store: Store, clock: Clock):
    """A caller that polls would keep the sweep away otherwise."""
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


class SlowStore(Store):
    """A store that holds the writes of uses until `may_end` is set, and then fails with `error` if there is one."""

    def __init__(self, redis: FakeAsyncRedis, clock: Clock) -> None:
        super().__init__(redis, clock)
        self.writes = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def update_cached(
        self, record: Sandbox, mutate: Mutate, *, precondition: Precondition | None = None
    ) -> UpdateResult:
        self.writes += 1
        await self.may_end.wait()
        if self.error:
            raise self.error
        return await super().update_cached(record, mutate, precondition=precondition)


async def test_answer_does_not_wait_for_the_write_of_a_use(serve: Serve, fake_redis: FakeAsyncRedis, clock: Clock):
    """Uses during the write cause no second write."""
    slow = SlowStore(fake_redis, clock)
    api = await serve(slow, **TIMES)
    await api.post("/api/sandboxes", json=BODY)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    responses = [await api.get(ABC) for _ in range(10)]
    before = await last_used(slow)
    slow.may_end.set()
    assert {response.status_code for response in responses} == {200}
    assert before == clock.now - TOUCH_INTERVAL_SECONDS
    await until_used(slow, clock.now)
    assert slow.writes == 1


async def test_use_whose_write_fails_is_dropped_and_the_next_one_is_stored(fake_redis: FakeAsyncRedis, clock: Clock):
    slow = SlowStore(fake_redis, clock)
    record = new_record("abc", Spec(), cluster="default", now=clock.now, policy=ExpiryPolicy(1000, 0))
    await put(slow, record)
    slow.error = StoreUnavailable(OSError("away"))
    slow.may_end.set()
    clock.advance(TOUCH_INTERVAL_SECONDS)
    usage = UsageTracker(slow)
    async with usage.running():
        usage.record_use(record)
    slow.error = None
    async with usage.running():
        usage.record_use(record)
    assert slow.writes == 2
    assert await last_used(slow) == clock.now


async def test_tracker_that_stops_finishes_its_writes(fake_redis: FakeAsyncRedis, clock: Clock):
    slow = SlowStore(fake_redis, clock)
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    await put(slow, record)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    usage = UsageTracker(slow)
    async with usage.running():
        usage.record_use(record)
        asyncio.get_running_loop().call_soon(slow.may_end.set)
    assert await last_used(slow) == clock.now


async def test_use_of_an_earlier_incarnation_is_not_stored(clock: Clock, store: Store):
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    later = new_record("abc", Spec(), cluster="default", now=clock.now, generation=2)
    await put(store, later)
    clock.advance(TOUCH_INTERVAL_SECONDS)
    usage = UsageTracker(store)
    async with usage.running():
        usage.record_use(record)
    assert await last_used(store) == later.last_used_at


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_use_that_is_not_stored_leaves_three_quarters_of_the_idle_timeout(idle_timeout: int, since_last: int):
    """A sandbox in use never expires as idle."""
    now = 1_750_000_000.0
    record = new_record("abc", Spec(), cluster="default", now=now, policy=ExpiryPolicy(float(idle_timeout), 0))
    if not needs_touch(record, now + since_last) and record.expiry:
        assert record.expiry.at - (now + since_last) >= idle_timeout * 3 / 4


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED, Status.TERMINATING])
def test_ended_sandbox_needs_no_touch(status: Status):
    record = new_record("abc", Spec(), cluster="default", now=0.0)
    assert needs_touch(record, 1e6)
    assert not needs_touch(replace(record, status=status), 1e6)
