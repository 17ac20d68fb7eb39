"""What Redis says of the workers."""

import pytest
from arq.connections import ArqRedis

from deploy.doctor.findings import Verdict
from shared.liveness.vitals import ALIVE_SECONDS, FRESH_SECONDS, Vitals
from shared.store.store import Store
from shared.store.update import Precondition
from tests.deploy.doctor.conftest import Look

pytestmark = pytest.mark.anyio

LEASE = Precondition("leader:default", "mine")


async def vitals_of(redis: ArqRedis, ago: float, cluster: str = "default") -> Vitals:
    """Of a worker whose word is from so many seconds ago."""
    store = Store(redis)
    await store.set_clock()
    return Vitals(redis, lambda: store.now() - ago, cluster)


@pytest.mark.usefixtures("valkey")
async def test_there_is_none(look: Look):
    found = await look("workers")
    assert (found.verdict, found.seen) == (Verdict.BROKEN, "none has said that it lives")
    assert "python -m worker" in found.advice
    found = await look("observer")
    assert (found.verdict, found.seen) == (Verdict.BROKEN, "default was never observed")
    assert "CLUSTER_NAME" in found.advice


async def test_workers_live(look: Look, valkey: ArqRedis):
    vitals = await vitals_of(valkey, 0)
    await vitals.beat("one")
    await vitals.beat("other")
    found = await look("workers")
    assert (found.verdict, found.seen) == (Verdict.OK, "2 live")


async def test_a_worker_lived(look: Look, valkey: ArqRedis):
    await (await vitals_of(valkey, ALIVE_SECONDS + 1)).beat("one")
    assert (await look("workers")).verdict is Verdict.BROKEN


@pytest.mark.parametrize(("ago", "verdict"), [(FRESH_SECONDS / 2, Verdict.OK), (FRESH_SECONDS + 1, Verdict.BROKEN)])
async def test_the_cluster_was_observed(look: Look, valkey: ArqRedis, ago: float, verdict: Verdict):
    await valkey.set(LEASE.key, LEASE.value)
    await (await vitals_of(valkey, ago)).observed(LEASE)
    found = await look("observer")
    assert found.verdict is verdict
    assert found.seen.startswith("default was observed ")
    assert (await look("observer", CLUSTER_NAME="other")).seen == "other was never observed"
