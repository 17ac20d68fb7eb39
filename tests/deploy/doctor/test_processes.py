"""The check of the workers and of the leader's sync, by what Redis holds."""

import pytest
from arq.connections import ArqRedis

from deploy.doctor.findings import Verdict
from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, WorkerRegistry
from shared.store.store import Store
from shared.store.update import Precondition
from tests.deploy.doctor.conftest import RunCheck

pytestmark = pytest.mark.anyio

LEASE = Precondition("leader:default", "mine")


async def registry(redis: ArqRedis, seconds_ago: float) -> WorkerRegistry:
    """Return a registry in which each heartbeat is `seconds_ago` old."""
    store = Store(redis)
    await store.set_clock()
    return WorkerRegistry(redis, lambda: store.now() - seconds_ago)


@pytest.mark.usefixtures("valkey")
async def test_workers_without_heartbeat_fail(run_check: RunCheck):
    result = await run_check("workers")
    assert result.verdict is Verdict.FAILED
    assert result.detail.startswith("no worker is running")
    assert "python -m worker" in result.advice


async def test_workers_with_heartbeats_are_counted(run_check: RunCheck, valkey: ArqRedis):
    workers = await registry(valkey, 0)
    await workers.beat("one")
    await workers.beat("other")
    result = await run_check("workers")
    assert (result.verdict, result.detail) == (Verdict.OK, "2 running")


async def test_workers_with_an_old_heartbeat_fail(run_check: RunCheck, valkey: ArqRedis):
    await (await registry(valkey, ALIVE_SECONDS + 1)).beat("one")
    assert (await run_check("workers")).verdict is Verdict.FAILED


@pytest.mark.usefixtures("valkey")
async def test_cluster_sync_without_a_sync_fails(run_check: RunCheck):
    result = await run_check("cluster sync")
    assert (result.verdict, result.detail) == (Verdict.FAILED, "no worker has synced cluster default yet")
    assert "CLUSTER_NAME" in result.advice


@pytest.mark.parametrize(("ago", "verdict"), [(FRESH_SECONDS / 2, Verdict.OK), (FRESH_SECONDS + 1, Verdict.FAILED)])
async def test_cluster_sync_is_judged_by_its_age(run_check: RunCheck, valkey: ArqRedis, ago: float, verdict: Verdict):
    await valkey.set(LEASE.key, LEASE.value)
    store = Store(valkey)
    await store.set_clock()
    await ClusterSync(valkey, lambda: store.now() - ago, "default").mark_synced(LEASE)
    result = await run_check("cluster sync")
    assert result.verdict is verdict
    assert result.detail.startswith("cluster default was synced ")
    other = await run_check("cluster sync", CLUSTER_NAME="other")
    assert other.detail == "no worker has synced cluster other yet"
