import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from shared.errors import PreconditionFailed, RecordUnreadable
from shared.queue.job import CLOCK_SKEW_SECONDS, CREATE_PRIORITY_SECONDS, Job, JobKind
from shared.sandbox.history import KEPT, OURS, HistoryEntry, entry, read_entry
from shared.sandbox.record import STALLED_SECONDS, Reason, Sandbox, Spec, Status
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
from shared.store import keys
from shared.store.indexes import Selection
from shared.store.pagination import START
from shared.store.store import Store
from shared.store.update import ANY_VALUE, Mutate, Precondition, Update
from tests.conftest import Clock, Connect, created

pytestmark = pytest.mark.anyio

Evolve = Callable[[Sandbox], Sandbox | None]
FREED = "sandboxes:freed"


def evolved(evolve: Evolve) -> Mutate:
    """A move of what is there; of what is not, none."""
    return lambda current: None if current is None else Update(evolve(current))


def made_or(evolve: Evolve) -> Mutate:
    """A move of what is there; of what is not, its create."""

    def mutate(current: Sandbox | None) -> Update | None:
        return created("abc", 0.0)(None) if current is None else Update(evolve(current))

    return mutate


def removed(_: Sandbox | None) -> Update:
    return Update(None)


def left(_: Sandbox | None) -> None:
    """A move that decides against it."""


def meanwhile(happen: Callable[[], Awaitable[object]]) -> None:
    """Another process has its turn right now, in the middle of ours: an event loop of its own, in a thread."""

    async def turn() -> None:
        await happen()

    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, turn()).result()


def overtaken(mutate: Mutate, happen: Callable[[], Awaitable[object]]) -> tuple[Mutate, list[Sandbox | None]]:
    """`move`, overtaken the first time it is called; and the records that it was called with."""
    seen: list[Sandbox | None] = []

    def call(current: Sandbox | None) -> Update | None:
        seen.append(current)
        if len(seen) == 1:
            meanwhile(happen)
        return mutate(current)

    return call, seen


async def make(store: Store, sandbox_id: str = "abc", user_id: str = "ada") -> Sandbox:
    outcome = await store.create_or_update(sandbox_id, created(sandbox_id, store.now(), user_id))
    assert outcome.written
    assert outcome.record is not None
    return outcome.record


async def keys_of(redis: Redis) -> dict[str, Any]:
    """All that Redis holds: records and histories decoded, sorted sets with their scores, other strings as they are."""
    held: dict[str, Any] = {}
    for key in sorted([raw.decode() for raw in await redis.keys()]):
        if key == FREED:
            held[key] = await redis.lrange(key, 0, -1)
        elif await redis.type(key) == b"zset":
            held[key] = {member.decode(): score for member, score in await redis.zrange(key, 0, -1, withscores=True)}
        elif key.endswith(":history"):
            held[key] = [read_entry(raw) for raw in await redis.lrange(key, 0, -1)]
        elif key.endswith(":tombstone"):
            continue  # tests/shared/store/test_tombstones.py
        elif key.startswith("sandbox:"):
            held[key] = msgspec.json.decode(await redis.get(key), type=Sandbox)
        else:
            held[key] = await redis.get(key)
    return held


def of_records(held: dict[str, Any]) -> dict[str, Any]:
    """Without jobs, and without what is kept of those that went."""
    return {key: value for key, value in held.items() if not key.startswith("arq:") and key != FREED}


def expected(records: Iterable[Sandbox]) -> dict[str, Any]:
    """All that Redis should hold of these records; each has a history, whatever it tells."""
    held: dict[str, Any] = {}
    for record in records:
        held[f"sandbox:{record.id}"] = record
        held[f"sandbox:{record.id}:history"] = ANY
        of_user = (f"user:{record.spec.user_id}", *([f"live:{record.spec.user_id}"] if record.is_active else []))
        for index in ("created", f"status:{record.status}", *of_user):
            held.setdefault(f"sandboxes:{index}", {})[record.id] = record.created_at
        if record.due_at is not None:
            held.setdefault("sandboxes:deadline", {})[record.id] = record.due_at
    return held


async def test_create(store: Store, redis: Redis, clock: Clock):
    """A create writes the record, the beginning of its history, its indexes and its job, and nothing else."""
    record = await make(store)
    job = Job.of(JobKind.PROVISION, record)
    assert await keys_of(redis) == {
        **expected([record]),
        "sandbox:abc:history": [entry(clock.now, OURS, "Normal", "Accepted", "Life 1 was asked for.")],
        keys.QUEUE: {job.id: (clock.now - CREATE_PRIORITY_SECONDS) * 1000},
        keys.JOB + job.id: job.payload(clock.now),
    }


async def test_get(store: Store):
    """What was written is read; what never was is None."""
    record = await make(store)
    assert await store.get("abc") == record
    assert await store.get("abd") is None


async def test_change(store: Store, redis: Redis, clock: Clock):
    """A change is written whole, counted, and dated."""
    record = await make(store)
    clock.advance(3.125)
    outcome = await store.create_or_update("abc", evolved(lambda r: with_reason(r, Reason.QUOTA_EXCEEDED, "full – wait")))
    assert outcome.written
    assert outcome.record == replace(
        record, revision=2, updated_at=clock.now, reason=Reason.QUOTA_EXCEEDED, message="full – wait"
    )
    assert of_records(await keys_of(redis)) == expected([outcome.record])


async def test_revisions(store: Store):
    """Each write of one life counts one up, and its next life counts from one again."""
    await make(store)
    revisions = []
    for evolve in (next_attempt, terminating, lambda r: new_incarnation(r, r.spec, now=store.now()), next_attempt):
        outcome = await store.create_or_update("abc", evolved(evolve))
        assert outcome.record is not None
        revisions.append((outcome.record.generation, outcome.record.revision))
    assert revisions == [(1, 2), (1, 3), (2, 1), (2, 2)]


async def test_left_alone(store: Store, redis: Redis):
    """A move that decides against it writes nothing, and tells what is there."""
    record = await make(store)
    before = await keys_of(redis)
    assert await store.create_or_update("abc", left) == (record, False)
    assert await store.create_or_update("abd", left) == (None, False)
    assert await keys_of(redis) == before


async def test_remove(store: Store, redis: Redis):
    """A record that is removed leaves nothing of it behind, and removing it again does no harm."""
    await make(store)
    await redis.delete(keys.QUEUE, *await redis.keys(f"{keys.JOB}*"))
    assert await store.create_or_update("abc", removed) == (None, True)
    assert of_records(await keys_of(redis)) == {}
    before = await keys_of(redis)
    assert (await store.create_or_update("abc", removed)).record is None
    assert await keys_of(redis) == before


async def test_indexes_follow(store: Store, redis: Redis, clock: Clock):
    """After every step of a life the indexes hold what the record says, beside those of another sandbox."""
    other = await make(store, "other", "bob")
    steps: list[Evolve] = [
        next_attempt,
        lambda r: provisioned(r, ProvisionedObjects("p", "u", "service", "http://h:1"), now=clock.now),
        lambda r: replace(r, status=Status.RUNNING, ready=True),
        lambda r: replace(r, lifetime=60.5),
        lambda r: touched(r, clock.now, keep_seconds=90),
        lambda r: failed(r, Reason.POD_LOST, "gone"),
        lambda r: new_incarnation(r, Spec(user_id="bob"), now=clock.now),
        terminating,
    ]
    await make(store)
    for step in steps:
        clock.advance(0.1)
        record = (await store.create_or_update("abc", evolved(step))).record
        assert record is not None
        assert of_records(await keys_of(redis)) == expected([other, record])
    await store.create_or_update("abc", removed)
    assert of_records(await keys_of(redis)) == expected([other])


STEPS: dict[str, Callable[[Sandbox, float], Sandbox | None]] = {
    "attempt": lambda r, _: next_attempt(r),
    "trouble": lambda r, _: with_reason(r, Reason.QUOTA_EXCEEDED, "wait"),
    "provision": lambda r, now: provisioned(r, ProvisionedObjects("p", "u", "service", "http://h:1"), now=now),
    "run": lambda r, _: replace(r, status=Status.RUNNING, ready=True),
    "expire": lambda r, now: replace(r, lifetime=now - r.created_at + 60),
    "keep": lambda r, _: replace(r, lifetime=0.0),
    "fail": lambda r, _: failed(r, Reason.INVALID, "no"),
    "terminate": lambda r, _: terminating(r),
    "next life": lambda r, now: new_incarnation(r, Spec(user_id="bob"), now=now),
    "remove": lambda _, __: None,
}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["create", "leave", *STEPS]),
            st.floats(0, 1e6),
            st.integers(0, 3),
        ),
        max_size=25,
    )
)
async def test_any_sequence(sequence: list[tuple[str, str, float, int]]):
    """After any sequence of changes Redis holds exactly what the records say, however old the callers' beliefs."""
    records: dict[str, Sandbox] = {}
    history: dict[str, list[Sandbox]] = {"a": [], "b": [], "c": []}
    clock = Clock(1_750_000_000.0)
    async with FakeAsyncRedis() as redis:
        store = Store(redis, clock)
        for sandbox_id, name, seconds, age in sequence:
            clock.advance(seconds)
            known = history[sandbox_id][-age:] if age and name in STEPS else []
            outcome = await store.create_or_update(
                sandbox_id, moves(sandbox_id, name, clock.now), believed=known[0] if known else UNSET
            )
            records.pop(sandbox_id, None)
            if outcome.record is not None:
                records[sandbox_id] = outcome.record
                history[sandbox_id].append(outcome.record)
            assert of_records(await keys_of(redis)) == expected(records.values())


def moves(sandbox_id: str, name: str, now: float) -> Mutate:
    if name in STEPS:
        return evolved(lambda record: STEPS[name](record, now))
    return created(sandbox_id, now) if name == "create" else left


@pytest.mark.parametrize("believes", ["what is", "what was", "that there is none"])
async def test_believed(store: Store, redis: Redis, clock: Clock, believes: str):
    """Whatever the caller believes, right, out of date or wrong, the step is based on what is."""
    old = await make(store)
    now = (await store.create_or_update("abc", evolved(next_attempt))).record
    clock.advance(1)
    believed = {"what is": now, "what was": old, "that there is none": None}[believes]
    outcome = await store.create_or_update("abc", made_or(next_attempt), believed=believed)
    assert outcome.written
    assert outcome.record == replace(old, attempt=3, revision=3, updated_at=clock.now)
    assert of_records(await keys_of(redis)) == expected([outcome.record])


async def test_believed_gone(store: Store, redis: Redis):
    """Whoever believes in a record that is gone sees that it is gone."""
    record = await make(store)
    await store.create_or_update("abc", removed)
    before = await keys_of(redis)
    assert await store.update_cached(record, evolved(next_attempt)) == (None, False)
    assert await keys_of(redis) == before


async def test_lost_race(store: Store, redis: Redis, open_redis: Connect, clock: Clock):
    """Whoever is overtaken looks again, and both changes are kept."""
    record = await make(store)

    async def other() -> None:
        async with open_redis() as mine:
            await Store(mine, clock).change("abc", evolved(lambda r: replace(r, url="http://h:1")))

    mutate, seen = overtaken(evolved(next_attempt), other)
    outcome = await store.create_or_update("abc", mutate)
    assert outcome.written
    assert outcome.record == replace(record, url="http://h:1", attempt=2, revision=3)
    assert [(r.url, r.revision) for r in seen if r] == [("", 1), ("http://h:1", 2)]
    assert of_records(await keys_of(redis)) == expected([outcome.record])


async def test_lost_race_to_create(store: Store, redis: Redis, open_redis: Connect, clock: Clock):
    """Of two who create one id at once, the slower gets the record of the faster, and there is one job."""

    async def other() -> None:
        async with open_redis() as mine:
            await make(Store(mine, clock), user_id="bob")

    mutate, seen = overtaken(created("abc", clock.now), other)
    outcome = await store.create_or_update("abc", mutate)
    assert not outcome.written
    assert outcome.record is not None
    assert outcome.record.spec.user_id == "bob"
    assert seen == [None, outcome.record]
    assert await redis.zcard(keys.QUEUE) == 1


async def test_lost_race_to_remove(store: Store, redis: Redis, open_redis: Connect, clock: Clock):
    """Whoever changes what another removes meanwhile does not bring it back."""
    await make(store)

    async def other() -> None:
        async with open_redis() as mine:
            await Store(mine, clock).change("abc", removed)

    mutate, _ = overtaken(evolved(next_attempt), other)
    assert await store.create_or_update("abc", mutate) == (None, False)
    assert of_records(await keys_of(redis)) == {}


async def test_concurrent_creates(open_redis: Connect, redis: Redis, clock: Clock):
    """Fifty creates of one id at once, by three processes, make one record and one job, and all get that record."""
    async with open_redis() as one, open_redis() as two, open_redis() as three:
        stores = [Store(mine, clock) for mine in (one, two, three)]
        outcomes = await asyncio.gather(
            *(stores[n % 3].create_or_update("abc", created("abc", clock.now)) for n in range(50))
        )
    record = await Store(redis, clock).get("abc")
    assert record is not None
    assert [outcome.record for outcome in outcomes] == [record] * 50
    assert sum(outcome.written for outcome in outcomes) == 1
    assert await redis.keys(f"{keys.JOB}*") == [f"{keys.JOB}{Job.of(JobKind.PROVISION, record).id}".encode()]


async def test_concurrent_changes(open_redis: Connect, clock: Clock):
    """No change of many at once is lost."""
    async with open_redis() as redis:
        store = Store(redis, clock)
        await make(store)
        await asyncio.gather(*(store.create_or_update("abc", evolved(next_attempt)) for _ in range(25)))
        record = await store.get("abc")
        assert record is not None
        assert (record.attempt, record.revision) == (26, 26)


async def test_publishes(store: Store, redis: Redis):
    """Each write wakes who waits for changes, with the id; what writes nothing wakes nobody."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.CHANGES)
        record = await make(store)
        await store.update_cached(record, evolved(next_attempt))
        await store.create_or_update("abc", left)
        with pytest.raises(PreconditionFailed):
            await store.create_or_update("abc", evolved(next_attempt), precondition=Precondition("lease", "mine"))
        await make(store, "abd")
        await store.create_or_update("abc", removed)
        async with asyncio.timeout(10):
            woken = [await next_change(pubsub) for _ in range(4)]
        assert woken == ["abc", "abc", "abd", "abc"]


async def next_change(pubsub: PubSub) -> str:
    async for message in pubsub.listen():
        if message["type"] == "message":
            return message["data"].decode()
    raise AssertionError("the channel was closed")


async def test_guard(store: Store, redis: Redis):
    """Whoever holds the lease may write."""
    await redis.set("lease", "mine")
    outcome = await store.create_or_update("abc", created("abc", store.now()), precondition=Precondition("lease", "mine"))
    assert outcome.written
    assert await store.get("abc") == outcome.record


@pytest.mark.parametrize("holder", ["another's", None])
async def test_fenced(store: Store, redis: Redis, holder: str | None):
    """Whoever no longer holds the lease writes nothing: no record, no index, no job."""
    if holder:
        await redis.set("lease", holder)
    await make(store)
    before = await keys_of(redis)
    for sandbox_id, mutate in (("abc", removed), ("abd", created("abd", store.now()))):
        with pytest.raises(PreconditionFailed):
            await store.create_or_update(sandbox_id, mutate, precondition=Precondition("lease", "mine"))
    assert await keys_of(redis) == before


async def test_a_guard_that_anything_satisfies(store: Store, redis: Redis):
    """It asks only that there is something."""
    there = Precondition("mark", ANY_VALUE)
    with pytest.raises(PreconditionFailed):
        await store.create_or_update("abc", created("abc", store.now()), precondition=there)
    assert await store.get("abc") is None
    await redis.set("mark", "some")
    assert (await store.create_or_update("abc", created("abc", store.now()), precondition=there)).written


async def test_fenced_says_nothing_of_what_is_left_alone(store: Store):
    """A move that decides against it needs no lease."""
    record = await make(store)
    assert await store.create_or_update("abc", left, precondition=Precondition("lease", "mine")) == (record, False)


async def test_jobs_of_a_step(store: Store, redis: Redis, clock: Clock):
    """A step may ask for several jobs; each has its own key and place in the queue, due at once."""
    record = await make(store)
    clock.advance(5)
    following = new_incarnation(failed(record, Reason.INVALID, "no"), record.spec, now=clock.now)
    jobs = (Job.of(JobKind.TERMINATE, next_attempt(record)), Job.of(JobKind.PROVISION, following))
    await store.create_or_update("abc", lambda _: Update(following, jobs))
    held = await keys_of(redis)
    assert {job.id: held[keys.JOB + job.id] for job in jobs} == {job.id: job.payload(clock.now) for job in jobs}
    assert {job.id: held[keys.QUEUE][job.id] for job in jobs} == {
        job.id: (clock.now - early) * 1000
        for job, early in zip(jobs, (CLOCK_SKEW_SECONDS, CREATE_PRIORITY_SECONDS), strict=True)
    }
    assert 0 < await redis.pttl(keys.JOB + jobs[0].id) <= 86_400_000


async def test_all(store: Store, clock: Clock):
    """All records, oldest first, however they were named, and more than are read at once."""
    ids = [f"s{(number * 7919) % 1201:04}" for number in range(1201)]
    for sandbox_id in ids:
        clock.advance(0.25)
        await store.create_or_update(sandbox_id, created(sandbox_id, clock.now))
    assert [record.id for record in await store.all()] == ids


async def test_all_of_nothing(store: Store):
    """Where there is no sandbox there is an empty list."""
    assert await store.all() == []


async def due(store: Store, limit: int = 10) -> list[str]:
    return [record.id for record in await store.due(limit) if record]


async def test_due(store: Store, clock: Clock):
    """What is due is what nobody moved for too long, longest due first, and no more than asked for."""
    for sandbox_id in ("a", "b", "c"):
        await make(store, sandbox_id)
        clock.advance(1)
    clock.advance(STALLED_SECONDS - 3)
    assert await due(store) == ["a"]
    clock.advance(1)
    assert await due(store) == ["a", "b"]
    assert await due(store, 1) == ["a"]
    await store.create_or_update("a", evolved(next_attempt))
    assert await due(store) == ["b"]
    await store.create_or_update(
        "b", evolved(lambda r: provisioned(r, ProvisionedObjects("p", "u", "service", "http://h"), now=clock.now))
    )
    assert await due(store) == []


async def test_due_when_it_expires(store: Store, clock: Clock):
    """What is made is due when it expires, not before."""
    await make(store)
    await store.create_or_update(
        "abc",
        evolved(
            lambda r: replace(
                provisioned(r, ProvisionedObjects("p", "u", "service", "http://h"), now=clock.now), idle_timeout=60.0
            )
        ),
    )
    clock.advance(59)
    assert await due(store) == []
    clock.advance(1)
    assert await due(store) == ["abc"]


async def test_provisioning_workers(store: Store, redis: Redis):
    """A life may be in the making while workers have any of its attempts in hand; another life's are not its own."""
    record = replace(await make(store), attempt=3)
    assert await store.provisioning_workers(record) == set()
    stranger = new_incarnation(record, record.spec, now=store.now())
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, stranger).id, "a")
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.TERMINATE, record).id, "b")
    assert await store.provisioning_workers(record) == set()
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, replace(record, attempt=2)).id, "c")
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, record).id, "d")
    assert await store.provisioning_workers(record) == {"c", "d"}


async def test_declining_on_a_wrong_belief(store: Store, clock: Clock):
    """A move that declines what its caller wrongly believed is asked again with what is there."""
    await store.create_or_update("abc", created("abc", clock.now))
    outcome = await store.create_or_update("abc", lambda r: Update(next_attempt(r)) if r else None)
    assert outcome.written


# Histories


async def test_a_history_follows_its_record(store: Store, clock: Clock):
    """Each step adds what it tells, of its own time, newest last; what writes nothing tells nothing."""
    record = await make(store)
    clock.advance(1)
    await store.create_or_update(
        "abc", evolved(lambda r: provisioned(r, ProvisionedObjects("p", "u", "s", "http://h"), now=clock.now))
    )
    await store.create_or_update("abc", left)
    clock.advance(1)
    await store.create_or_update("abc", evolved(terminating))
    await store.create_or_update("abc", evolved(lambda r: new_incarnation(r, r.spec, now=clock.now)))
    assert [(entry.at - record.created_at, entry.reason) for entry in await store.history("abc")] == [
        (0, "Accepted"),
        (1, "Provisioned"),
        (2, "Terminating"),
        (2, "Accepted"),
    ]


async def test_a_history_goes_with_its_record(store: Store, redis: Redis):
    """When a record is removed nothing is told of it any more, and a new one begins a new history."""
    await make(store)
    await store.create_or_update("abc", removed)
    assert await store.history("abc") == []
    assert not await redis.exists("sandbox:abc:history")
    await make(store)
    assert [entry.reason for entry in await store.history("abc")] == ["Accepted"]


async def test_a_history_is_bounded(store: Store):
    """However much happens, the last of it is kept."""
    await make(store)
    for number in range(KEPT + 8):
        await store.create_or_update("abc", evolved(lambda r, n=number: with_reason(r, Reason.CLUSTER_UNAVAILABLE, f"try {n}")))
    messages = [entry.message for entry in await store.history("abc")]
    assert messages == [f"try {number}" for number in range(8, KEPT + 8)]


HOLDING = Precondition("lease", "mine")
"""What whoever tells holds."""


async def tell(store: Store, reason: str, message: str = "told", sandbox_id: str = "abc") -> HistoryEntry:
    told = entry(store.now(), "kubelet", "Warning", reason, message)
    await store.append_history(sandbox_id, [told], HOLDING)
    return told


async def test_tell(store: Store, redis: Redis, clock: Clock):
    """What others say comes after what was said before, and wakes nobody: the record is as it was."""
    await redis.set(*HOLDING)
    record = await make(store)
    clock.advance(1)
    told = await tell(store, "FailedMount")
    assert (await store.history("abc"))[1:] == [told]
    assert await store.get("abc") == record


async def test_told_again(store: Store, redis: Redis, clock: Clock):
    """What was said before is there once, with its last time, as the newest; what differs in a word is another."""
    await redis.set(*HOLDING)
    await make(store)
    for reason, message in (("FailedMount", "a"), ("FailedMount", "b"), ("Unhealthy", "a"), ("FailedMount", "a")):
        clock.advance(1)
        await tell(store, reason, message)
    (_, *told) = await store.history("abc")
    assert [(e.reason, e.message) for e in told] == [("FailedMount", "b"), ("Unhealthy", "a"), ("FailedMount", "a")]
    assert told[-1].at == clock.now


async def test_what_is_told_is_bounded(store: Store, redis: Redis):
    """A Pod of which Kubernetes says much does not fill Redis."""
    await redis.set(*HOLDING)
    await make(store)
    for number in range(KEPT + 8):
        await tell(store, "Unhealthy", str(number))
    assert [e.message for e in await store.history("abc")] == [str(number) for number in range(8, KEPT + 8)]


async def test_nothing_is_told_of_what_is_gone(store: Store, redis: Redis):
    """An event that comes after the record has gone leaves nothing behind."""
    await redis.set(*HOLDING)
    await tell(store, "Killing")
    assert await keys_of(redis) == {"lease": b"mine"}


async def test_telling_is_fenced(store: Store, redis: Redis):
    """Whoever no longer holds the lease tells nothing."""
    await redis.set("lease", "another's")
    await make(store)
    before = await keys_of(redis)
    with pytest.raises(PreconditionFailed):
        await tell(store, "FailedMount")
    assert await keys_of(redis) == before


# What is no record of ours

UNREADABLE = [b"{", b"[]", b'{"id":"abc"}', b"\xff\xfe", b'{"id":1}']


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_unreadable(store: Store, redis: Redis, raw: bytes):
    """What cannot be read is said, and what it looks like, and is not written over."""
    await redis.set("sandbox:abc", raw)
    for ask in (store.get("abc"), store.create_or_update("abc", made_or(next_attempt))):
        with pytest.raises(RecordUnreadable) as refused:
            await ask
        assert "no record of this version" in refused.value.detail
    with pytest.raises(RecordUnreadable):
        await store.create_or_update("abc", made_or(next_attempt))
    assert await redis.get("sandbox:abc") == raw


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_one_that_is_unreadable_hides_no_other(store: Store, redis: Redis, clock: Clock, raw: bytes):
    """A list has all others, whole and in pages."""
    for sandbox_id in ("a", "abc", "b"):
        await make(store, sandbox_id)
        clock.advance(1)
    await redis.set("sandbox:abc", raw)
    assert [record.id for record in await store.all()] == ["a", "b"]
    page = await store.page(Selection(), START, 10)
    assert [record.id for record in page.records] == ["a", "b"]


async def test_a_record_of_a_later_version(store: Store, redis: Redis):
    """What a later version of us wrote beside what we know is no reason not to read it."""
    record = await make(store)
    later = {**msgspec.to_builtins(record), "a_newer_field": [1], "reason": "NewerReason"}
    await redis.set("sandbox:abc", msgspec.json.encode(later))
    assert await store.get("abc") == replace(record, reason="NewerReason")
