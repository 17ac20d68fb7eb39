import os
import socket
import time

import pytest
from arq.connections import ArqRedis

from shared.errors import StoreUnavailable
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from tests.support.eventually import eventually
from tests.support.records import settings_of
from worker.health.heartbeat import heartbeat, is_on_this_host, new_worker_name

pytestmark = pytest.mark.anyio

NAME = "host:1:a"


async def keep_clock() -> None:
    """Leave the clock as it is."""


@pytest.fixture
def workers(valkey: ArqRedis) -> WorkerRegistry:
    return WorkerRegistry(valkey, time.time)


async def test_heartbeat_registers_the_worker_before_the_context_begins(workers: WorkerRegistry):
    """A worker that fetched jobs before would look dead to others. At the end the worker removes itself."""
    async with heartbeat(workers, NAME, keep_clock):
        assert await workers.alive() == [NAME]
    assert await workers.alive() == []


async def test_heartbeat_without_redis_begins_all_the_same(away_url: str):
    async with (
        connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away,
        heartbeat(WorkerRegistry(away, time.time), NAME, keep_clock),
    ):
        pass


async def test_heartbeat_is_repeated_after_redis_was_emptied(workers: WorkerRegistry, valkey: ArqRedis):
    async def is_alive() -> bool:
        return bool(await workers.alive())

    async with heartbeat(workers, NAME, keep_clock, interval_seconds=0.02):
        await valkey.flushall()
        await eventually(is_alive, "the worker is registered again")


async def test_heartbeat_sets_the_clock_each_time(workers: WorkerRegistry):
    """A failure of Redis does not end the heartbeat."""
    calls = []

    async def set_clock() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise StoreUnavailable(OSError("away"))

    async def has_called_often() -> bool:
        return len(calls) > 3

    async with heartbeat(workers, NAME, set_clock, interval_seconds=0.01):
        await eventually(has_called_often, "the clock is set again and again")


def test_new_worker_name_has_host_process_and_a_random_part():
    """Two containers with host networking may have the same host name and process id."""
    names = {new_worker_name() for _ in range(100)}
    assert len(names) == 100
    assert {name.rpartition(":")[0] for name in names} == {f"{socket.gethostname()}:{os.getpid()}"}


def test_is_on_this_host_compares_the_whole_host_name():
    assert is_on_this_host(new_worker_name())
    assert not is_on_this_host(f"{socket.gethostname()}-2:1:a")
    assert not is_on_this_host("elsewhere:1:a")
