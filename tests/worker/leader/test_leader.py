import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import PreconditionFailed, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import terminating
from shared.settings import Settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Precondition
from tests.conftest import StartValkey
from tests.support.records import record_of, settings_of
from tests.support.reflectors import relist
from tests.worker.conftest import Kubernetes, eventually, put, queued, read
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.errors import KubernetesError
from worker.leader.leader import Leader
from worker.leader.lease import RETRY_SECONDS, Lease
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.pods import PodReflector
from worker.reflectors.tasks import reflector_tasks

pytestmark = pytest.mark.anyio

ID = "abc"
POD = "sandbox-abc"
ACCEPTED = record_of(ID)
UID = "00000000-0000-0000-0000-000000000000"
Provision = Callable[..., Awaitable[Sandbox]]
RunningLeader = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def provision(provisioner: Provisioner, store: Store) -> Provision:
    """Return a function that provisions a sandbox which no reflector has seen."""

    async def begin(sandbox_id: str = ID) -> Sandbox:
        record = await put(store, record_of(sandbox_id))
        await provisioner.provision(sandbox_id, record.incarnation, 1)
        return await read(store, sandbox_id)

    return begin


@pytest.fixture
def running_leader(
    store: Store, sync: ClusterSync, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings
) -> RunningLeader:
    """Return a context in which a leader runs. Every test fails if the leader ends by itself."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        task = asyncio.create_task(
            Leader(valkey, settings.cluster_name, reflector_tasks(store, sync, cluster, settings)).run()
        )
        try:
            yield
        finally:
            ended_by_itself = task.done()
            await stopped(task)
        assert not ended_by_itself, task

    return run


@pytest.fixture
async def pods(
    store: Store, sync: ClusterSync, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings
) -> PodReflector:
    """Return the Pod reflector of a leader that holds the lease."""
    lease = Lease(valkey, settings.cluster_name)
    await lease.acquire()
    return PodReflector(sync, PodCache(), store, cluster, settings, lease.precondition)


async def stopped(task: asyncio.Task[None]) -> int:
    """Cancel a task until it ends, and return how often that took; `test_leader_stopped_at_any_moment` expects once."""
    times = 0
    while not task.done():
        task.cancel()
        times += 1
        await asyncio.wait([task], timeout=1)
    return times


async def until(store: Store, what: str, holds: Callable[[Sandbox], Any], sandbox_id: str = ID) -> Sandbox:
    """Return the record as soon as `holds` is true of it."""

    async def look() -> Sandbox | None:
        record = await store.get(sandbox_id)
        return record if record and holds(record) else None

    found: Sandbox = await eventually(look, what)
    return found


async def until_ready(store: Store, sandbox_id: str = ID) -> Sandbox:
    return await until(store, f"{sandbox_id} is ready", lambda r: r.ready and r.status is Status.RUNNING, sandbox_id)


async def until_lost(store: Store) -> Sandbox:
    return await until(store, "the loss is seen", lambda r: r.status is Status.FAILED)


async def until_forgotten(store: Store) -> None:
    async def forgotten() -> bool:
        return await store.get(ID) is None

    await eventually(forgotten, "the record is forgotten")


async def until_watching(kubernetes: Kubernetes, times: int = 1) -> None:
    """Wait until so many watches of Pods have begun since the last count."""

    async def watching() -> bool:
        return bool((await kubernetes.call("GET", "/emulator/calls")).body.get("watch pods", 0) >= times)

    await eventually(watching, "the watch is open")


async def calls(kubernetes: Kubernetes) -> dict[str, int]:
    """Return how often each call was made since the last count."""
    counted: dict[str, int] = (await kubernetes.call("DELETE", "/emulator/calls")).body
    return counted


# What it sees


async def test_watch_pod_becomes_ready_record_follows_with_times(
    store: Store, provision: Provision, running_leader: RunningLeader
):
    async with running_leader():
        await provision()
        record = await until_ready(store)
    assert (record.pod_name, record.reason) == (POD, Reason.NONE)
    assert None not in (record.timings.scheduled, record.timings.running, record.timings.ready)


async def test_list_pod_ready_before_the_term_record_is_ready(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await provision()
    await kubernetes.ready(POD)
    assert (await read(store, ID)).status is Status.PENDING
    async with running_leader():
        await until_ready(store)


async def test_watch_many_pods_each_updates_its_own_record(
    store: Store, provision: Provision, running_leader: RunningLeader
):
    ids = [f"many-{number}" for number in range(20)]
    async with running_leader():
        made = await asyncio.gather(*map(provision, ids))
        ready = [await until_ready(store, sandbox_id) for sandbox_id in ids]
    assert [r.pod_uid for r in ready] == [r.pod_uid for r in made]


async def test_watch_readiness_flaps_status_stays_running(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await kubernetes.set_faults({"kind": "readiness-flaps", "seconds": 0.1})
    async with running_leader():
        await provision()
        await until_ready(store)
        record = await until(store, "it is not ready any more", lambda r: not r.ready)
        assert record.status is Status.RUNNING
        await until_ready(store)


@pytest.mark.parametrize("trouble", ["unschedulable", "no-mount"])
async def test_watch_pod_waits_record_stays_pending_until_it_runs(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes, trouble: str
):
    await kubernetes.set_faults({"kind": trouble, "seconds": 0.1})
    async with running_leader():
        await provision()
        await kubernetes.until_fault()
        assert (await read(store, ID)).status is Status.PENDING
        await kubernetes.set_faults()
        await until_ready(store)


async def test_watch_image_missing_record_fails_at_once_and_job_removes_pod(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    """The message is Kubernetes' own."""
    await kubernetes.set_faults({"kind": "image-pull"})
    async with running_leader():
        await provision()
        record = await until_lost(store)
    assert record.reason == Reason.IMAGE_PULL_FAILED
    assert "not found" in record.message
    assert record.attempt > 1


async def test_watch_pod_evicted_record_fails_with_the_nodes_words(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await kubernetes.set_faults({"kind": "evicted", "seconds": 0.1})
    async with running_leader():
        await provision()
        record = await until_lost(store)
    assert record.reason == Reason.EVICTED
    assert "low on resource: memory" in record.message


# Pods that go


async def test_watch_pod_deleted_by_kubectl_record_fails_as_pod_lost(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    """A deleted Pod ends in phase Failed. That is not the cause."""
    async with running_leader():
        await provision()
        await until_ready(store)
        await kubernetes.delete("pods", POD)
        record = await until_lost(store)
    assert (record.reason, record.ready) == (Reason.POD_LOST, False)


async def test_watch_pod_gone_without_terminating_record_fails_as_pod_lost(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    """A lost node takes its Pods along."""
    async with running_leader():
        await provision()
        await until_ready(store)
        await kubernetes.lose(POD)
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_list_pod_gone_before_the_term_record_fails_as_pod_lost(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await provision()
    await kubernetes.lose(POD)
    async with running_leader():
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_watch_pod_of_deleted_sandbox_record_goes_with_it(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes, provisioner: Provisioner
):
    """The record stays Terminating as long as the Pod does."""
    async with running_leader():
        await provision()
        ending = await put(store, terminating(await until_ready(store)))
        await provisioner.terminate(ID, ending.incarnation, 1)
        await until_forgotten(store)
    await kubernetes.until_empty()


async def test_list_pod_of_deleted_sandbox_gone_before_the_term_record_is_deleted(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await put(store, terminating(await provision()))
    await kubernetes.lose(POD)
    async with running_leader():
        await until_forgotten(store)


@pytest.mark.parametrize("uid", [UID, ""], ids=["a Pod that is gone", "never a Pod"])
async def test_relist_pod_missing_fails_only_a_record_that_had_one(store: Store, pods: PodReflector, uid: str):
    """A record that waits for its Pod goes on waiting."""
    before = await put(store, replace(ACCEPTED, pod_uid=uid))
    await relist(pods)
    record = await read(store, ID)
    if uid:
        assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
    else:
        assert record == before


async def test_relist_record_of_another_cluster_is_left_alone(store: Store, pods: PodReflector):
    before = await put(store, replace(ACCEPTED, cluster="another", pod_uid=UID))
    await relist(pods)
    assert await read(store, ID) == before


async def test_relist_nothing_changed_writes_nothing(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes
):
    await provision()
    await kubernetes.ready(POD)
    await relist(pods)
    record = await until_ready(store)
    await relist(pods)
    assert await read(store, ID) == record


async def test_relist_pod_of_earlier_incarnation_is_removed_by_a_job(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, valkey: ArqRedis
):
    """Its state says nothing about the present incarnation."""
    first = await provision()
    await kubernetes.ready(POD)
    second = await put(store, replace(ACCEPTED, generation=2, token="ffffffff", created_at=first.created_at + 1))
    await relist(pods)
    after = await read(store, ID)
    assert (after.status, after.ready, after.pod_uid) == (Status.PENDING, False, "")
    assert after.incarnation == second.incarnation
    assert f"terminate:{ID}:{first.incarnation}:" in " ".join(await queued(valkey))


# What goes wrong


async def test_watch_expired_lists_again_and_misses_nothing(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    """The server answers 410."""
    await kubernetes.set_faults({"kind": "watch-expired", "resource": "pods", "times": 2})
    await calls(kubernetes)
    async with running_leader():
        await provision()
        await until_ready(store)
        await until_watching(kubernetes, 3)
    assert await kubernetes.count_faults() == [2]
    assert (await calls(kubernetes))["list pods"] == 3


async def test_watch_ended_by_server_goes_on_without_a_list(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    await calls(kubernetes)
    await kubernetes.set_faults({"kind": "watch-close", "resource": "pods", "seconds": 0, "times": 3})
    async with running_leader():
        await until_watching(kubernetes, 4)
        await provision()
        await until_ready(store)
    assert (await calls(kubernetes))["list pods"] == 1


async def test_next_watch_begins_at_the_last_event(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes
):
    """The version of the list may be too old by then."""
    await calls(kubernetes)
    async with running_leader():
        await until_watching(kubernetes)
        assert (await kubernetes.call("POST", "/emulator/expire")).status == 200
        await provision()
        await until_ready(store)
        await kubernetes.set_faults({"kind": "watch-close", "resource": "pods", "seconds": 0, "times": 1})
        await until_watching(kubernetes, 2)
        await kubernetes.lose(POD)
        await until_lost(store)
    assert (await calls(kubernetes))["list pods"] == 1


@pytest.mark.parametrize(
    "trouble",
    [{"kind": "error", "status": 500}, {"kind": "error", "status": 403}, {"kind": "unavailable"}],
    ids=["500", "403", "every connection is cut"],
)
async def test_cluster_unavailable_statuses_stay_and_missed_changes_follow(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes, trouble: dict[str, Any]
):
    async with running_leader():
        await provision()
        seen = await until_ready(store)
        await kubernetes.set_faults({**trouble, "verb": "list"}, {**trouble, "verb": "watch"}, {"kind": "unavailable"})
        await kubernetes.until_fault()
        await kubernetes.lose(POD)
        assert await read(store, ID) == seen
        await kubernetes.set_faults()
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_list_failed_loses_no_sandbox(store: Store, pods: PodReflector, kubernetes: Kubernetes):
    """A failed list is not an empty list."""
    before = await put(store, replace(ACCEPTED, pod_uid=UID, status=Status.RUNNING))
    await kubernetes.set_faults({"kind": "error", "status": 500})
    with pytest.raises(KubernetesError):
        await relist(pods)
    assert await read(store, ID) == before


# Who may


async def test_relist_lease_lost_first_write_is_refused(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, valkey: ArqRedis, settings: Settings
):
    before = await provision()
    await kubernetes.ready(POD)
    await valkey.delete(keys.leader(settings.cluster_name))
    with pytest.raises(PreconditionFailed):
        await relist(pods)
    assert await read(store, ID) == before


async def test_leader_lease_taken_away_writes_nothing_until_it_leads_again(
    store: Store, provision: Provision, running_leader: RunningLeader, valkey: ArqRedis, settings: Settings
):
    name = keys.leader(settings.cluster_name)
    async with running_leader():
        await provision()
        await until_ready(store)
        await valkey.set(name, b"another worker's")
        await provision("second")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await until_ready(store, "second")
        assert (await read(store, "second")).status is Status.PENDING
        await valkey.delete(name)
        await until_ready(store, "second")


async def test_two_leaders_only_one_asks_the_cluster_and_the_other_takes_over_at_once(
    store: Store, provision: Provision, running_leader: RunningLeader, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The first gives its lease back when it stops."""
    await calls(kubernetes)
    async with running_leader():
        await until_watching(kubernetes)
        async with running_leader():
            await provision()
            await until_ready(store)
            assert (await calls(kubernetes))["list pods"] == 1
        assert await valkey.exists(keys.leader("default"))
    async with running_leader():
        async with asyncio.timeout(RETRY_SECONDS):
            await until_watching(kubernetes)


async def test_leader_stopped_releases_the_lease(
    running_leader: RunningLeader, valkey: ArqRedis, kubernetes: Kubernetes
):
    await calls(kubernetes)
    async with running_leader():
        await until_watching(kubernetes)
        assert await valkey.exists(keys.leader("default"))
    assert not await valkey.exists(keys.leader("default"))


async def test_leader_stopped_at_any_moment_ends_when_told_once(
    store: Store, sync: ClusterSync, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings
):
    """The shutdown of a worker waits for that."""
    for moment in range(60):
        task = asyncio.create_task(
            Leader(valkey, settings.cluster_name, reflector_tasks(store, sync, cluster, settings)).run()
        )
        for _ in range(moment):
            await asyncio.sleep(0)
        assert await stopped(task) <= 1, f"told once, {moment} turns of the loop after its start, it went on"
        await valkey.delete(keys.leader(settings.cluster_name))


async def test_relist_redis_unavailable_raises_store_unavailable(
    cluster: KubernetesClient, settings: Settings, away_url: str
):
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away:
        nobodys = Precondition(keys.leader(settings.cluster_name), "none")
        store = Store(away)
        sync = ClusterSync(away, store.now, settings.cluster_name)
        pods = PodReflector(sync, PodCache(), store, cluster, settings, nobodys)
        with pytest.raises(StoreUnavailable):
            await relist(pods)


async def test_leader_redis_restarted_leads_again_and_lists_again(
    start_valkey: StartValkey, cluster: KubernetesClient, settings: Settings, kubernetes: Kubernetes
):
    server = start_valkey()
    await calls(kubernetes)
    async with connect(settings_of(REDIS_URL=server.url), FAIL_FAST) as redis:
        store = Store(redis)
        sync = ClusterSync(redis, store.now, settings.cluster_name)
        running_leader = asyncio.create_task(
            Leader(redis, settings.cluster_name, reflector_tasks(store, sync, cluster, settings)).run()
        )
        await until_watching(kubernetes)
        server.stop()
        server.start()
        await until_watching(kubernetes, 2)
        assert (await calls(kubernetes))["list pods"] == 2
        assert not running_leader.done()
        await stopped(running_leader)
