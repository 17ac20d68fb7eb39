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
ARGUMENTS = ("abc", ACCEPTED.incarnation, 1)


@pytest.fixture
def clock() -> Clock:
    """Return a clock with this host's time, which arq uses."""
    return Clock(time.time())


@pytest.fixture
def context(store: Store, provisioner: Provisioner) -> dict[Any, Any]:
    """Return arq's context of a job's first try."""
    return {
        "store": store,
        "provisioner": provisioner,
        "throttle": CleanupThrottle(store.redis, store.now),
        "settings": read_settings({}),
        "job_id": "the-job",
        "job_try": 1,
    }


async def test_provision_and_terminate_create_and_delete_a_sandbox(
    context: dict[Any, Any], store: Store, kubernetes: Kubernetes
):
    await put(store, ACCEPTED)
    await functions.provision(context, *ARGUMENTS)
    assert (await read(store, "abc")).is_provisioned
    await put(store, terminating(await read(store, "abc")))
    await functions.terminate(context, *ARGUMENTS)
    await kubernetes.until_empty()


@pytest.mark.parametrize("job", [functions.provision, functions.terminate])
async def test_job_with_failing_kubernetes_raises_retry(
    context: dict[Any, Any], store: Store, kubernetes: Kubernetes, job: Any
):
    """Any other exception would be a final failure to arq."""
    await put(store, ACCEPTED if job is functions.provision else terminating(ACCEPTED))
    await kubernetes.set_faults({"kind": "error", "status": 503})
    with pytest.raises(Retry) as put_off:
        await job(context, *ARGUMENTS)
    assert 0 < (put_off.value.defer_score or 0) < 1000


async def test_job_with_retry_after_of_kubernetes_waits_that_long(
    context: dict[Any, Any], store: Store, kubernetes: Kubernetes
):
    await put(store, ACCEPTED)
    await kubernetes.set_faults({"kind": "error", "status": 429, "retry_after": 7})
    with pytest.raises(Retry) as put_off:
        await functions.provision(context, *ARGUMENTS)
    assert 6000 < (put_off.value.defer_score or 0) < 20_000


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_job_on_host_with_wrong_clock_is_due_by_redis_time(
    context: dict[Any, Any], store: Store, kubernetes: Kubernetes, clock: Clock, ahead: float
):
    """The delay is added to the host's time by arq."""
    clock.advance(ahead)
    await put(store, ACCEPTED)
    await kubernetes.set_faults({"kind": "error", "status": 429, "retry_after": 7})
    with pytest.raises(Retry) as put_off:
        await functions.provision(context, *ARGUMENTS)
    due = time.time() + (put_off.value.defer_score or 0) / 1000
    assert ahead < 0 or 6 < due - clock.now < 20
    assert (put_off.value.defer_score or 0) > 0


async def test_job_waits_longer_after_each_try(context: dict[Any, Any], store: Store, kubernetes: Kubernetes):
    await put(store, ACCEPTED)
    await kubernetes.set_faults({"kind": "error", "status": 503})
    waits = []
    for job_try in (1, 4, 8):
        with pytest.raises(Retry) as put_off:
            await functions.provision({**context, "job_try": job_try}, *ARGUMENTS)
        waits.append(put_off.value.defer_score or 0)
    assert waits == sorted(set(waits))


async def test_terminate_during_a_provision_job_retries_soon(
    context: dict[Any, Any], store: Store, valkey: ArqRedis, workers: WorkerRegistry
):
    await put(store, terminating(ACCEPTED))
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, "host:1:a")
    await workers.beat("host:1:a")
    with pytest.raises(Retry) as put_off:
        await functions.terminate(context, *ARGUMENTS)
    assert 0 < (put_off.value.defer_score or 0) <= 1000


async def test_jobs_without_redis_retry_or_wait_for_the_next_sweep(
    cluster: KubernetesClient, settings: Settings, away_url: str
):
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
            await functions.provision(context, *ARGUMENTS)
        await functions.sweep(context)


async def test_sweep_enqueues_jobs_of_due_records(
    context: dict[Any, Any], store: Store, clock: Clock, valkey: ArqRedis
):
    await put(store, ACCEPTED)
    clock.advance(STALLED_SECONDS)
    await functions.sweep(context)
    assert len(await queued(valkey)) == 1


def test_job_limit_is_shorter_than_arqs():
    """A try that reaches arq's own limit is final."""
    assert functions.JOB_SECONDS < functions.ARQ_TIMEOUT_SECONDS
