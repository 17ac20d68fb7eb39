"""Limits on the number of sandboxes, counted in the step that accepts one more."""

import asyncio
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from api.sandboxes.updates import create_or_keep, request_deletion
from shared.errors import LimitReached
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects, expired, failed, new_incarnation, provisioned
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.limits import limits
from shared.store.store import Store
from shared.store.update import Update, UpdateResult
from shared.store.update_script import FREED_KEPT
from tests.conftest import Clock, Connect
from tests.support.redis_contents import entries_of

pytestmark = pytest.mark.anyio


def with_cluster_ip(**environment: str) -> Settings:
    return read_settings({"SANDBOX_SERVICE_TYPE": "ClusterIP", **environment})


TEN = with_cluster_ip(MAX_SANDBOXES="10")


async def create(store: Store, sandbox_id: str, settings: Settings, user_id: str = "ada") -> bool:
    """Return True if the create is accepted, or finds an existing sandbox."""
    mutate = create_or_keep(sandbox_id, Spec(user_id=user_id), settings, now=store.now())
    try:
        await store.create_or_update(sandbox_id, mutate)
    except LimitReached:
        return False
    return True


async def refusal(store: Store, sandbox_id: str, settings: Settings, user_id: str = "bob") -> LimitReached:
    mutate = create_or_keep(sandbox_id, Spec(user_id=user_id), settings, now=store.now())
    with pytest.raises(LimitReached) as refused:
        await store.create_or_update(sandbox_id, mutate)
    return refused.value


async def fill(store: Store, count: int, settings: Settings, name: str = "s") -> None:
    for number in range(count):
        assert await create(store, f"{name}{number}", settings)


async def write(store: Store, sandbox_id: str, record: Sandbox | None) -> None:
    """Write this record, or delete the present one."""
    await store.create_or_update(sandbox_id, lambda _: Update(record))


async def delete(store: Store, sandbox_id: str) -> UpdateResult:
    """Request the deletion, as the API does. The record stays until the Pod is gone."""
    return await store.update(sandbox_id, request_deletion(lambda _: True))


async def read(store: Store, sandbox_id: str) -> Sandbox:
    record = await store.get(sandbox_id)
    assert record is not None
    return record


class Case(NamedTuple):
    environment: dict[str, str]
    names: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Case({"SANDBOX_SERVICE_TYPE": "ClusterIP"}, []),
        Case({}, ["NODE_PORT_CAPACITY"]),
        Case({"NODE_PORT_CAPACITY": "0"}, []),
        Case({"SANDBOX_SERVICE_TYPE": "ClusterIP", "MAX_SANDBOXES": "1"}, ["MAX_SANDBOXES"]),
        Case({"MAX_SANDBOXES_PER_USER": "1", "NODE_PORT_CAPACITY": "0"}, ["MAX_SANDBOXES_PER_USER"]),
        Case(
            {"MAX_SANDBOXES": "1", "MAX_SANDBOXES_PER_USER": "1"},
            ["MAX_SANDBOXES", "MAX_SANDBOXES_PER_USER", "NODE_PORT_CAPACITY"],
        ),
    ],
    ids=str,
)
def test_limits_are_those_that_the_settings_name(case: Case):
    """Ports are counted only if sandboxes have one."""
    assert [limit.name for limit in limits(read_settings(case.environment), "ada")] == case.names


async def test_create_beyond_the_limit_is_refused_and_writes_nothing(store: Store, redis: Redis):
    await fill(store, 10, TEN)
    before = sorted(await redis.keys())
    error = await refusal(store, "one-more", TEN)
    assert (error.status, error.code, error.extra) == (429, "limit_reached", {"limit": "MAX_SANDBOXES"})
    assert sorted(await redis.keys()) == before


async def test_64_concurrent_creates_fill_the_limit_exactly(open_redis: Connect, redis: Redis, clock: Clock):
    """By clients of three processes; after four deletions, exactly four more are accepted."""
    async with open_redis() as one, open_redis() as two, open_redis() as three:
        stores = [Store(client, clock) for client in (one, two, three)]
        accepted = await asyncio.gather(*(create(stores[n % 3], f"s{n}", TEN) for n in range(64)))
        assert sum(accepted) == 10
        deleted = [f"s{n}" for n, was_accepted in enumerate(accepted) if was_accepted][:4]
        await asyncio.gather(*(delete(stores[0], sandbox_id) for sandbox_id in deleted))
        assert sum(await asyncio.gather(*(create(stores[n % 3], f"t{n}", TEN) for n in range(64)))) == 4
    assert len([r for r in await Store(redis, clock).all() if r.is_active]) == 10


async def test_existing_sandbox_is_never_refused(store: Store):
    await fill(store, 10, TEN)
    assert await create(store, "s3", TEN)
    assert await create(store, "s3", with_cluster_ip(MAX_SANDBOXES="1"))


@pytest.mark.parametrize("end", ["deleted", "failed", "expired", "removed"])
async def test_ended_sandbox_makes_room_for_exactly_one(store: Store, end: str):
    await fill(store, 10, TEN)
    record = await read(store, "s0")
    after = {
        "deleted": replace(record, status=Status.TERMINATING),
        "failed": failed(record, Reason.POD_LOST, "gone"),
        "expired": expired(record, ExpiryCause.IDLE, store.now()),
        "removed": None,
    }[end]
    await write(store, "s0", after)
    await write(store, "s0", after)
    assert [await create(store, "new", TEN), await create(store, "newer", TEN)] == [True, False]


async def test_next_incarnation_of_an_ended_sandbox_needs_room(store: Store):
    """If the create is refused, the ended incarnation stays as it is."""
    await fill(store, 10, TEN)
    await write(store, "s0", failed(await read(store, "s0"), Reason.POD_LOST, "gone"))
    assert await create(store, "new", TEN)
    before = await read(store, "s0")
    assert not await create(store, "s0", TEN)
    assert await read(store, "s0") == before


async def test_next_incarnation_of_an_active_sandbox_counts_once(store: Store):
    await fill(store, 10, TEN)
    record = await read(store, "s0")
    await write(store, "s0", new_incarnation(record, record.spec, now=store.now()))
    assert not await create(store, "new", TEN)
    await delete(store, "s0")
    assert [await create(store, "new", TEN), await create(store, "newer", TEN)] == [True, False]


async def test_limit_of_one_user_leaves_others_alone(store: Store):
    settings = with_cluster_ip(MAX_SANDBOXES_PER_USER="2")
    await fill(store, 2, settings)
    assert not await create(store, "one-more", settings)
    assert await create(store, "another", settings, user_id="bob")
    await write(store, "s0", failed(await read(store, "s0"), Reason.POD_LOST, "gone"))
    assert [await create(store, "new", settings), await create(store, "newer", settings)] == [True, False]


async def test_terminating_sandbox_holds_its_node_port_until_its_record_is_deleted(store: Store):
    settings = with_cluster_ip(SANDBOX_SERVICE_TYPE="NodePort", NODE_PORT_CAPACITY="3")
    await fill(store, 3, settings)
    await delete(store, "s0")
    assert (await refusal(store, "one-more", settings)).extra == {"limit": "NODE_PORT_CAPACITY"}
    await write(store, "s0", None)
    assert [await create(store, "new", settings), await create(store, "newer", settings)] == [True, False]


async def test_refusal_names_the_limit_that_is_reached(store: Store):
    settings = with_cluster_ip(MAX_SANDBOXES="5", MAX_SANDBOXES_PER_USER="2")
    await fill(store, 2, settings)
    error = await refusal(store, "x", settings, user_id="ada")
    assert error.extra == {"limit": "MAX_SANDBOXES_PER_USER"}


# Retry-After


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.5, "1"), (6, "6"), (6.25, "7"), (1000, "60")])
async def test_retry_after_is_the_average_time_between_ends(
    store: Store, clock: Clock, redis: Redis, seconds: float, retry_after: str
):
    """At least a second, at most a minute."""
    await fill(store, 10, TEN)
    now = await server_time(redis)
    for number in range(1, 5):
        await redis.execute_command("RPUSH", keys.FREED, str(now - seconds * number))
    clock.now = now
    assert (await refusal(store, "one-more", TEN)).headers == {"Retry-After": retry_after}


async def test_retry_after_before_any_sandbox_has_ended_is_a_minute(store: Store):
    await fill(store, 10, TEN)
    assert (await refusal(store, "one-more", TEN)).headers == {"Retry-After": "60"}


async def test_only_the_last_ends_are_kept_and_other_changes_are_no_end(store: Store, redis: Redis):
    await fill(store, 1, TEN, name="stays")
    objects = ProvisionedObjects("p", "u", "s", "http://h:1")
    await write(store, "stays0", provisioned(await read(store, "stays0"), objects, now=store.now()))
    assert not await redis.exists(keys.FREED)
    for number in range(20):
        assert await create(store, f"s{number}", TEN)
        await delete(store, f"s{number}")
        await write(store, f"s{number}", None)
    assert len(await entries_of(redis, keys.FREED)) == FREED_KEPT == 16


async def server_time(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds) + microseconds / 1_000_000
