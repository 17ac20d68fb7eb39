import time
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.queue.job import Job, JobKind
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import STALLED_SECONDS
from shared.sandbox.transitions import terminating
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.store import Store
from tests.conftest import Clock
from tests.support.records import record_of, settings_of
from tests.worker.conftest import Kubernetes, put, queued, read
from worker.jobs import functions
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import KubernetesClient

pytestmark = pytest.mark.anyio

ACCEPTED = record_of("abc")
ABOUT = ("abc", ACCEPTED.incarnation, 1)


@pytest.fixture
def clock() -> Clock:
    """Redis' time is this host's, by which arq counts."""
    return Clock(time.time())


@pytest.fixture
def context(store: Store, provisioner: Provisioner) -> dict[Any, Any]:
    """What arq hands to a job at its first try."""
    return {
        "store": store,
        "provisioner": provisioner,
        "throttle": CleanupThrottle(store.redis, store.now),
        "settings": read_settings({}),
        "job_id": "the-job",
        "job_try": 1,
    }


async def test_a_life(context: dict[Any, Any], store: Store, kubernetes: Kubernetes):
    """The two jobs make a sandbox and take it away again."""
    await put(store, ACCEPTED)
    await functions.provision(context, *ABOUT)
    assert (await read(store, "abc")).is_provisioned
    await put(store, terminating(await read(store, "abc")))
    await functions.terminate(context, *ABOUT)
    await kubernetes.until_empty()


@pytest.mark.parametrize("job", [functions.provision, functions.terminate])
async def test_a_cluster_in_trouble(context: dict[Any, Any], store: Store, kubernetes: Kubernetes, job: Any):
    """A job that cannot be done now is put off, so that arq does not take it for one that failed."""
    await put(store, ACCEPTED if job is functions.provision else terminating(ACCEPTED))
    await kubernetes.misbehave({"kind": "error", "status": 503})
    with pytest.raises(Retry) as put_off:
        await job(context, *ABOUT)
    assert 0 < (put_off.value.defer_score or 0) < 1000


async def test_the_servers_word(context: dict[Any, Any], store: Store, kubernetes: Kubernetes):
    """A job is put off for as long as Kubernetes says."""
    await put(store, ACCEPTED)
    await kubernetes.misbehave({"kind": "error", "status": 429, "retry_after": 7})
    with pytest.raises(Retry) as put_off:
        await functions.provision(context, *ABOUT)
    assert 6000 < (put_off.value.defer_score or 0) < 20_000


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_a_host_whose_clock_is_wrong(
    context: dict[Any, Any], store: Store, kubernetes: Kubernetes, clock: Clock, ahead: float
):
    """What arq counts by its host's clock comes due by Redis' time, by which the queue goes."""
    clock.advance(ahead)
    await put(store, ACCEPTED)
    await kubernetes.misbehave({"kind": "error", "status": 429, "retry_after": 7})
    with pytest.raises(Retry) as put_off:
        await functions.provision(context, *ABOUT)
    due = time.time() + (put_off.value.defer_score or 0) / 1000
    assert ahead < 0 or 6 < due - clock.now < 20
    assert (put_off.value.defer_score or 0) > 0


async def test_each_try_waits_longer(context: dict[Any, Any], store: Store, kubernetes: Kubernetes):
    """A job that has failed often waits longer than one that failed once."""
    await put(store, ACCEPTED)
    await kubernetes.misbehave({"kind": "error", "status": 503})
    waits = []
    for job_try in (1, 4, 8):
        with pytest.raises(Retry) as put_off:
            await functions.provision({**context, "job_try": job_try}, *ABOUT)
        waits.append(put_off.value.defer_score or 0)
    assert waits == sorted(set(waits))


async def test_still_provisioning(context: dict[Any, Any], store: Store, valkey: ArqRedis):
    """A terminate that must wait for a provision looks again soon."""
    await put(store, terminating(ACCEPTED))
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, b"somebody")
    with pytest.raises(Retry) as put_off:
        await functions.terminate(context, *ABOUT)
    assert 0 < (put_off.value.defer_score or 0) <= 1000


async def test_redis_away(cluster: KubernetesClient, settings: Settings, away_url: str):
    """A job that cannot read its record is put off; a sweep that cannot is left to the next one."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away:
        store = Store(away)
        context = {
            "store": store,
            "provisioner": Provisioner(
                store, ClusterSync(away, store.now, "default"), WorkerRegistry(away, store.now), cluster, settings
            ),
            "throttle": CleanupThrottle(away, store.now),
            "settings": settings,
            "job_id": "j",
            "job_try": 1,
        }
        with pytest.raises(Retry):
            await functions.provision(context, *ABOUT)
        await functions.sweep(context)


async def test_sweep(context: dict[Any, Any], store: Store, clock: Clock, valkey: ArqRedis):
    """The scheduled job sweeps."""
    await put(store, ACCEPTED)
    clock.advance(STALLED_SECONDS)
    await functions.sweep(context)
    assert len(await queued(valkey)) == 1


def test_our_limit_comes_before_arqs():
    """arq's own limit is final, so a job ends itself before."""
    assert functions.JOB_SECONDS < functions.ARQ_TIMEOUT_SECONDS
