"""Redis as the store meets it: the fake that the API's tests use, and the real server, under the same tests."""

from collections.abc import AsyncIterator, Callable

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from shared.queue.job import Job, Work
from shared.redis.connection import PROMPT, connect
from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import accepted
from shared.settings import read_settings
from shared.store.store import Store
from shared.store.update import Change, Move
from tests.conftest import Clock

Connect = Callable[[], Redis]


def created(sandbox_id: str, now: float, user_id: str = "ada") -> Move:
    """The move of a create, with its job; it leaves alone what is there."""

    def move(current: Sandbox | None) -> Change | None:
        if current is not None:
            return None
        record = accepted(sandbox_id, Spec(user_id=user_id), cluster="default", now=now)
        return Change(record, (Job.of(Work.PROVISION, record),))

    return move


@pytest.fixture(params=["fakeredis", "valkey"])
def open_redis(request: pytest.FixtureRequest) -> Connect:
    """Makes clients of one and the same Redis, which is empty."""
    if request.param == "fakeredis":
        server = FakeServer()
        return lambda: FakeAsyncRedis(server=server)
    request.getfixturevalue("valkey")
    settings = read_settings({"REDIS_URL": request.getfixturevalue("valkey_url")})
    return lambda: connect(settings, PROMPT)


@pytest.fixture
async def redis(open_redis: Connect) -> AsyncIterator[Redis]:
    async with open_redis() as client:
        yield client


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)
