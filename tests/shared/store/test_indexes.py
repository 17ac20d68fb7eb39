"""Indexes: after any sequence of updates, Redis holds exactly what the records imply."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.sandbox.record import Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
    failed,
    new_incarnation,
    next_attempt,
    provisioned,
    terminating,
    touched,
    with_reason,
)
from shared.store.store import Store
from shared.store.update import Update, UpdateResult
from tests.conftest import Clock, created
from tests.support.redis_contents import expected_contents, record_contents_of
from tests.support.store import create, remove, updated

pytestmark = pytest.mark.anyio

OBJECTS = ProvisionedObjects("p", "u", "service", "http://h:1")


async def test_indexes_follow_each_update_beside_another_record(store: Store, redis: Redis, clock: Clock):
    other = await create(store, "other", "bob")
    updates: list[Callable[[Sandbox], Sandbox]] = [
        next_attempt,
        lambda r: provisioned(r, OBJECTS, now=clock.now),
        lambda r: replace(r, status=Status.RUNNING, ready=True),
        lambda r: replace(r, lifetime=60.5),
        lambda r: touched(r, clock.now, keep_seconds=90),
        lambda r: failed(r, Reason.POD_LOST, "gone"),
        lambda r: new_incarnation(r, Spec(user_id="bob"), now=clock.now),
        terminating,
    ]
    await create(store)
    for mutate in updates:
        clock.advance(0.1)
        record = await updated(store, mutate)
        assert await record_contents_of(redis) == expected_contents([other, record])
    await remove(store, "abc")
    assert await record_contents_of(redis) == expected_contents([other])


UPDATES: dict[str, Callable[[Sandbox, float], Sandbox | Update | None]] = {
    "leave": lambda _, __: None,
    "next attempt": lambda r, _: next_attempt(r),
    "reason": lambda r, _: with_reason(r, Reason.QUOTA_EXCEEDED, "wait"),
    "provision": lambda r, now: provisioned(r, OBJECTS, now=now),
    "run": lambda r, _: replace(r, status=Status.RUNNING, ready=True),
    "expire": lambda r, now: replace(r, lifetime=now - r.created_at + 60),
    "keep": lambda r, _: replace(r, lifetime=0.0),
    "touch": lambda r, now: Update(touched(r, now), silent=True),
    "fail": lambda r, _: failed(r, Reason.INVALID, "no"),
    "terminate": lambda r, _: Update(terminating(r)),
    "next incarnation": lambda r, now: new_incarnation(r, Spec(user_id="bob"), now=now),
    "delete": lambda _, __: Update(None),
}


class Step(NamedTuple):
    """One update, `seconds` after the last one. `age` 0 reads the record; others use the cached record of that age."""

    sandbox_id: str
    name: str
    seconds: float
    age: int


STEPS = st.builds(
    Step,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["create", "create or delete", *UPDATES]),
    st.floats(0, 1e6),
    st.integers(0, 3),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(STEPS, max_size=25))
async def test_any_sequence_of_updates_keeps_redis_consistent(steps: list[Step]):
    """However old the callers' cached records are."""
    records: dict[str, Sandbox] = {}
    versions: dict[str, list[Sandbox]] = {"a": [], "b": [], "c": []}
    clock = Clock(1_750_000_000.0)
    async with FakeAsyncRedis() as redis:
        store = Store(redis, clock)
        for step in steps:
            clock.advance(step.seconds)
            record = (await take(store, step, versions[step.sandbox_id])).record
            records.pop(step.sandbox_id, None)
            if record is not None:
                records[step.sandbox_id] = record
                versions[step.sandbox_id].append(record)
            assert await record_contents_of(redis) == expected_contents(records.values())


async def take(store: Store, step: Step, versions: list[Sandbox]) -> UpdateResult:
    now = store.now()
    create_record = created(step.sandbox_id, now)
    if step.name == "create":
        return await store.create_or_update(step.sandbox_id, create_record)
    if step.name == "create or delete":
        return await store.create_or_update(step.sandbox_id, lambda r: Update(None) if r else create_record(r))
    cached = versions[-step.age :][0] if step.age and versions else None
    if cached is None:
        return await store.update(step.sandbox_id, lambda record: UPDATES[step.name](record, now))
    return await store.update_cached(cached, lambda record: UPDATES[step.name](record, now))
