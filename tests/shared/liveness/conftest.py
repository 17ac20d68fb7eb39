import time

import pytest
from redis.asyncio import Redis

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from tests.conftest import Clock


@pytest.fixture
def clock() -> Clock:
    """Return a clock that starts at Redis' time, by which the registry of workers goes."""
    return Clock(time.time())


@pytest.fixture
def workers(redis: Redis, clock: Clock) -> WorkerRegistry:
    return WorkerRegistry(redis, clock)


@pytest.fixture
def sync(redis: Redis, clock: Clock) -> ClusterSync:
    return ClusterSync(redis, clock, "default")
