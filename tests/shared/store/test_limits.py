"""How many sandboxes there may be at once, counted in the step that accepts one more."""

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
from shared.store.limits import limits
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock, Connect

pytestmark = pytest.mark.anyio


def of(**environment: str) -> Settings:
    return read_settings({"SANDBOX_SERVICE_TYPE": "ClusterIP", **environment})


TEN = of(MAX_SANDBOXES="10")


async def create(store: Store, sandbox_id: str, settings: Settings, user_id: str = "ada") -> bool:
    """Whether it was accepted."""
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


async def evolve(store: Store, sandbox_id: str, record: Sandbox | None) -> None:
    await store.create_or_update(sandbox_id, lambda _: Update(record))


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
def test_limits(case: Case):
    """Those that are set; ports are counted where sandboxes have one."""
    assert [limit.name for limit in limits(read_settings(case.environment), "ada")] == case.names


async def test_up_to_the_limit(store: Store, redis: Redis):
    """The one too many is refused, with the setting's name, and nothing of it is written."""
    await fill(store, 10, TEN)
    before = sorted(await redis.keys())
    error = await refusal(store, "one-more", TEN)
    assert (error.status, error.code, error.extra) == (429, "limit_reached", {"limit": "MAX_SANDBOXES"})
    assert sorted(await redis.keys()) == before


async def test_64_at_once(open_redis: Connect, redis: Redis, clock: Clock):
    """Clients of three processes: exactly ten are accepted; and as many again as were deleted."""
    async with open_redis() as one, open_redis() as two, open_redis() as three:
        stores = [Store(mine, clock) for mine in (one, two, three)]
        accepted = await asyncio.gather(*(create(stores[n % 3], f"s{n}", TEN) for n in range(64)))
        assert sum(accepted) == 10
        gone = [f"s{n}" for n, was in enumerate(accepted) if was][:4]
        await asyncio.gather(*(stores[0].create_or_update(s, request_deletion(lambda _: True)) for s in gone))
        assert sum(await asyncio.gather(*(create(stores[n % 3], f"t{n}", TEN) for n in range(64)))) == 4
    assert len([r for r in await Store(redis, clock).all() if r.is_active]) == 10


async def test_what_is_there_is_never_refused(store: Store):
    """Of an id that exists nothing more is asked than to be found."""
    await fill(store, 10, TEN)
    assert await create(store, "s3", TEN)
    assert await create(store, "s3", of(MAX_SANDBOXES="1"))


@pytest.mark.parametrize("end", ["deleted", "failed", "expired", "removed"])
async def test_the_count_is_right_again(store: Store, end: str):
    """What is over, however it ended, makes room for one, and no more than one."""
    await fill(store, 10, TEN)
    record = await read(store, "s0")
    after = {
        "deleted": replace(record, status=Status.TERMINATING),
        "failed": failed(record, Reason.POD_LOST, "gone"),
        "expired": expired(record, ExpiryCause.IDLE, store.now()),
        "removed": None,
    }[end]
    await evolve(store, "s0", after)
    await evolve(store, "s0", after)
    assert [await create(store, "new", TEN), await create(store, "newer", TEN)] == [True, False]


async def test_the_next_life_of_what_is_over_needs_room(store: Store):
    """It has a Pod like any other; refused, the last life stays as it is."""
    await fill(store, 10, TEN)
    record = await read(store, "s0")
    await evolve(store, "s0", failed(record, Reason.POD_LOST, "gone"))
    assert await create(store, "new", TEN)
    before = await read(store, "s0")
    assert not await create(store, "s0", TEN)
    assert await read(store, "s0") == before


async def test_another_life_takes_no_second_place(store: Store):
    """A life that gives way to the next one, of its own accord, is counted once."""
    await fill(store, 10, TEN)
    record = await read(store, "s0")
    await evolve(store, "s0", new_incarnation(record, record.spec, now=store.now()))
    assert not await create(store, "new", TEN)
    await store.create_or_update("s0", request_deletion(lambda _: True))
    assert [await create(store, "new", TEN), await create(store, "newer", TEN)] == [True, False]


async def test_of_one_user(store: Store):
    """A user who has had enough is in nobody else's way; what is over is not counted."""
    settings = of(MAX_SANDBOXES_PER_USER="2")
    await fill(store, 2, settings)
    assert not await create(store, "one-more", settings)
    assert await create(store, "another", settings, user_id="bob")
    await evolve(store, "s0", failed(await read(store, "s0"), Reason.POD_LOST, "gone"))
    assert [await create(store, "new", settings), await create(store, "newer", settings)] == [True, False]


async def test_node_ports(store: Store):
    """One that is being deleted has its port still; when it is gone, another may have that."""
    settings = of(SANDBOX_SERVICE_TYPE="NodePort", NODE_PORT_CAPACITY="3")
    await fill(store, 3, settings)
    await store.create_or_update("s0", request_deletion(lambda _: True))
    assert (await refusal(store, "one-more", settings)).extra == {"limit": "NODE_PORT_CAPACITY"}
    await evolve(store, "s0", None)
    assert [await create(store, "new", settings), await create(store, "newer", settings)] == [True, False]


async def test_the_tightest_limit_is_named(store: Store):
    settings = of(MAX_SANDBOXES="5", MAX_SANDBOXES_PER_USER="2")
    await fill(store, 2, settings)
    error = await refusal(store, "x", settings, user_id="ada")
    assert error.extra == {"limit": "MAX_SANDBOXES_PER_USER"}


# When to come again


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.5, "1"), (6, "6"), (6.25, "7"), (1000, "60")])
async def test_retry_after(store: Store, clock: Clock, redis: Redis, seconds: float, retry_after: str):
    """As long as it took, on average, lately, until a sandbox went: a second at least, a minute at most."""
    await fill(store, 10, TEN)
    begun = float(await server_time(redis))
    await redis.rpush("sandboxes:freed", *[str(begun - seconds * number) for number in range(1, 5)])
    clock.now = begun
    assert (await refusal(store, "one-more", TEN)).headers == {"Retry-After": retry_after}


async def test_retry_after_when_nothing_is_known(store: Store):
    await fill(store, 10, TEN)
    assert (await refusal(store, "one-more", TEN)).headers == {"Retry-After": "60"}


async def test_what_is_known_of_room_is_bounded(store: Store, redis: Redis):
    """Only the last few that went are remembered; a life that changes otherwise makes no room."""
    await fill(store, 1, TEN, name="stays")
    made = ProvisionedObjects("p", "u", "s", "http://h:1")
    await evolve(store, "stays0", provisioned(await read(store, "stays0"), made, now=store.now()))
    assert not await redis.exists("sandboxes:freed")
    for number in range(20):
        assert await create(store, f"s{number}", TEN)
        await store.create_or_update(f"s{number}", request_deletion(lambda _: True))
        await evolve(store, f"s{number}", None)
    assert await redis.llen("sandboxes:freed") == 16


async def server_time(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds) + microseconds / 1_000_000
