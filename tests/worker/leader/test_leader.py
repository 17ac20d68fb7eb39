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
Observing = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def provision(provisioner: Provisioner, store: Store) -> Provision:
    """A life with Pod and Service, of which nothing has been observed."""

    async def begin(sandbox_id: str = ID) -> Sandbox:
        record = await put(store, record_of(sandbox_id))
        await provisioner.provision(sandbox_id, record.incarnation, 1)
        return await read(store, sandbox_id)

    return begin


@pytest.fixture
def observing(
    store: Store, sync: ClusterSync, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings
) -> Observing:
    """While it is entered, an observer runs; that it does not end by itself is part of every test."""

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
    """One leader's, which holds the lease."""
    lease = Lease(valkey, keys.leader(settings.cluster_name))
    await lease.acquire()
    return PodReflector(sync, PodCache(), store, cluster, settings, lease.precondition)


async def stopped(task: asyncio.Task[None]) -> int:
    """How often it had to be told; `test_stopped_at_any_moment` asks for once."""
    times = 0
    while not task.done():
        task.cancel()
        times += 1
        await asyncio.wait([task], timeout=1)
    return times


async def until(store: Store, what: str, holds: Callable[[Sandbox], Any], sandbox_id: str = ID) -> Sandbox:
    """The record, once that holds of it."""

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
    """Counted since the last time it was asked for."""

    async def watching() -> bool:
        return bool((await kubernetes.call("GET", "/emulator/calls")).body.get("watch pods", 0) >= times)

    await eventually(watching, "the watch is open")


async def calls(kubernetes: Kubernetes) -> dict[str, int]:
    """How often each was called since the last time."""
    counted: dict[str, int] = (await kubernetes.call("DELETE", "/emulator/calls")).body
    return counted


# What it sees


async def test_the_watch_follows_a_pod(store: Store, provision: Provision, observing: Observing):
    """A sandbox made while someone observes goes from Pending to Running to ready, each with its time."""
    async with observing():
        await provision()
        record = await until_ready(store)
    assert (record.pod_name, record.reason) == (POD, Reason.NONE)
    assert None not in (record.timings.scheduled, record.timings.running, record.timings.ready)


async def test_the_list_finds_what_was_before(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """A sandbox that became ready while nobody observed is Running and ready as soon as somebody does."""
    await provision()
    await kubernetes.ready(POD)
    assert (await read(store, ID)).status is Status.PENDING
    async with observing():
        await until_ready(store)


async def test_many(store: Store, provision: Provision, observing: Observing):
    """Each Pod goes to its own record."""
    ids = [f"many-{number}" for number in range(20)]
    async with observing():
        made = await asyncio.gather(*map(provision, ids))
        ready = [await until_ready(store, sandbox_id) for sandbox_id in ids]
    assert [r.pod_uid for r in ready] == [r.pod_uid for r in made]


async def test_readiness_comes_and_goes(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """A Pod whose readiness flaps stays Running, ready or not."""
    await kubernetes.misbehave({"kind": "readiness-flaps", "seconds": 0.1})
    async with observing():
        await provision()
        await until_ready(store)
        record = await until(store, "it is not ready any more", lambda r: not r.ready)
        assert record.status is Status.RUNNING
        await until_ready(store)


@pytest.mark.parametrize("trouble", ["unschedulable", "no-mount"])
async def test_a_pod_that_does_not_start(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes, trouble: str
):
    """A Pod that waits stays Pending while it waits, and is Running once what it waited for is there."""
    await kubernetes.misbehave({"kind": trouble, "seconds": 0.1})
    async with observing():
        await provision()
        await kubernetes.until_struck()
        assert (await read(store, ID)).status is Status.PENDING
        await kubernetes.misbehave()
        await until_ready(store)


async def test_an_image_that_is_not_there(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """What cannot mend itself has failed at once, with Kubernetes' words for it, and a job removes the Pod."""
    await kubernetes.misbehave({"kind": "image-pull"})
    async with observing():
        await provision()
        record = await until_lost(store)
    assert record.reason == Reason.IMAGE_PULL_FAILED
    assert "not found" in record.message
    assert record.attempt > 1


async def test_evicted(store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes):
    """A Pod that its node ends has failed, with the node's words for it."""
    await kubernetes.misbehave({"kind": "evicted", "seconds": 0.1})
    async with observing():
        await provision()
        record = await until_lost(store)
    assert record.reason == Reason.EVICTED
    assert "low on resource: memory" in record.message


# Pods that go


async def test_deleted_behind_our_back(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """`kubectl delete pod` ends the life as PodLost, not as a failure of the Pod, though it dies as phase Failed."""
    async with observing():
        await provision()
        await until_ready(store)
        await kubernetes.delete("pods", POD)
        record = await until_lost(store)
    assert (record.reason, record.ready) == (Reason.POD_LOST, False)


async def test_lost_at_once(store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes):
    """A Pod that went with its node, without terminating, is lost just so."""
    async with observing():
        await provision()
        await until_ready(store)
        await kubernetes.lose(POD)
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_lost_while_nobody_observed(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """A Pod that the record knew of and the list lacks is lost."""
    await provision()
    await kubernetes.lose(POD)
    async with observing():
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_deleted_by_us(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes, provisioner: Provisioner
):
    """A record that is being deleted stays Terminating while its Pod does, and is forgotten with it."""
    async with observing():
        await provision()
        ending = await put(store, terminating(await until_ready(store)))
        await provisioner.terminate(ID, ending.incarnation, 1)
        await until_forgotten(store)
    await kubernetes.until_empty()


async def test_gone_while_nobody_observed(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """A record that was being deleted is forgotten when the list shows that its Pod has gone meanwhile."""
    await put(store, terminating(await provision()))
    await kubernetes.lose(POD)
    async with observing():
        await until_forgotten(store)


@pytest.mark.parametrize("uid", [UID, ""], ids=["a Pod that is gone", "never a Pod"])
async def test_compare(store: Store, pods: PodReflector, uid: str):
    """What was never there cannot be lost: a record that waits for its Pod goes on waiting."""
    before = await put(store, replace(ACCEPTED, pod_uid=uid))
    await relist(pods)
    record = await read(store, ID)
    if uid:
        assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
    else:
        assert record == before


async def test_records_of_another_cluster(store: Store, pods: PodReflector):
    """What this cluster lacks may be another's: its records are left alone."""
    before = await put(store, replace(ACCEPTED, cluster="another", pod_uid=UID))
    await relist(pods)
    assert await read(store, ID) == before


async def test_nothing_new_is_not_written(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes
):
    """Looking again at what has not changed writes nothing."""
    await provision()
    await kubernetes.ready(POD)
    await relist(pods)
    record = await until_ready(store)
    await relist(pods)
    assert await read(store, ID) == record


async def test_a_pod_of_an_earlier_life(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The old Pod of an id that has come back tells nothing about the new life; a job removes it."""
    first = await provision()
    await kubernetes.ready(POD)
    following = await put(store, replace(ACCEPTED, generation=2, token="ffffffff", created_at=first.created_at + 1))
    await relist(pods)
    after = await read(store, ID)
    assert (after.status, after.ready, after.pod_uid) == (Status.PENDING, False, "")
    assert after.incarnation == following.incarnation
    assert f"terminate:{ID}:{first.incarnation}:" in " ".join(await queued(valkey))


# What goes wrong


async def test_a_watch_that_has_expired(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """410 leads to a new list, and nothing is missed."""
    await kubernetes.misbehave({"kind": "watch-expired", "resource": "pods", "times": 2})
    await calls(kubernetes)
    async with observing():
        await provision()
        await until_ready(store)
        await until_watching(kubernetes, 3)
    assert await kubernetes.struck() == [2]
    assert (await calls(kubernetes))["list pods"] == 3


async def test_a_watch_that_ends(store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes):
    """The regular end of a stream costs no new list: the next one goes on where it ended."""
    await calls(kubernetes)
    await kubernetes.misbehave({"kind": "watch-close", "resource": "pods", "seconds": 0, "times": 3})
    async with observing():
        await until_watching(kubernetes, 4)
        await provision()
        await until_ready(store)
    assert (await calls(kubernetes))["list pods"] == 1


async def test_a_watch_goes_on_from_what_was_last_seen(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes
):
    """Each stream begins at the last event of the one before, not at a list that may be too old by now."""
    await calls(kubernetes)
    async with observing():
        await until_watching(kubernetes)
        assert (await kubernetes.call("POST", "/emulator/expire")).status == 200
        await provision()
        await until_ready(store)
        await kubernetes.misbehave({"kind": "watch-close", "resource": "pods", "seconds": 0, "times": 1})
        await until_watching(kubernetes, 2)
        await kubernetes.lose(POD)
        await until_lost(store)
    assert (await calls(kubernetes))["list pods"] == 1


@pytest.mark.parametrize(
    "trouble",
    [{"kind": "error", "status": 500}, {"kind": "error", "status": 403}, {"kind": "unavailable"}],
    ids=["500", "403", "every connection is cut"],
)
async def test_a_cluster_in_trouble(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes, trouble: dict[str, Any]
):
    """While Kubernetes does not answer, what was last seen stays; when it does again, what was missed is seen."""
    async with observing():
        await provision()
        seen = await until_ready(store)
        await kubernetes.misbehave({**trouble, "verb": "list"}, {**trouble, "verb": "watch"}, {"kind": "unavailable"})
        await kubernetes.until_struck()
        await kubernetes.lose(POD)
        assert await read(store, ID) == seen
        await kubernetes.misbehave()
        assert (await until_lost(store)).reason == Reason.POD_LOST


async def test_a_list_that_fails(store: Store, pods: PodReflector, kubernetes: Kubernetes):
    """A list that cannot be had is no empty list: nobody is lost by it."""
    before = await put(store, replace(ACCEPTED, pod_uid=UID, status=Status.RUNNING))
    await kubernetes.misbehave({"kind": "error", "status": 500})
    with pytest.raises(KubernetesError):
        await relist(pods)
    assert await read(store, ID) == before


# Who may


async def test_only_the_holder_writes(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, valkey: ArqRedis, settings: Settings
):
    """A leader that has lost its lease is refused its first write, and ends."""
    before = await provision()
    await kubernetes.ready(POD)
    await valkey.delete(keys.leader(settings.cluster_name))
    with pytest.raises(PreconditionFailed):
        await relist(pods)
    assert await read(store, ID) == before


async def test_a_lease_taken_away(
    store: Store, provision: Provision, observing: Observing, valkey: ArqRedis, settings: Settings
):
    """An observer whose lease is another's writes nothing more, and goes on once it holds it again."""
    name = keys.leader(settings.cluster_name)
    async with observing():
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


async def test_two_observers(
    store: Store, provision: Provision, observing: Observing, kubernetes: Kubernetes, valkey: ArqRedis
):
    """Of two only one asks the cluster; when it stops, the other follows at once, without waiting for a lease's end."""
    await calls(kubernetes)
    async with observing():
        await until_watching(kubernetes)
        async with observing():
            await provision()
            await until_ready(store)
            assert (await calls(kubernetes))["list pods"] == 1
        assert await valkey.exists(keys.leader("default"))
    async with observing():
        async with asyncio.timeout(RETRY_SECONDS):
            await until_watching(kubernetes)


async def test_the_lease_is_given_back(observing: Observing, valkey: ArqRedis, kubernetes: Kubernetes):
    """An observer that is stopped leaves nothing to wait for."""
    await calls(kubernetes)
    async with observing():
        await until_watching(kubernetes)
        assert await valkey.exists(keys.leader("default"))
    assert not await valkey.exists(keys.leader("default"))


async def test_stopped_at_any_moment(
    store: Store, sync: ClusterSync, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings
):
    """Whatever an observer is about, it ends when told once: a worker's shutdown waits for that."""
    for moment in range(60):
        task = asyncio.create_task(
            Leader(valkey, settings.cluster_name, reflector_tasks(store, sync, cluster, settings)).run()
        )
        for _ in range(moment):
            await asyncio.sleep(0)
        assert await stopped(task) <= 1, f"told once, {moment} turns of the loop after its start, it went on"
        await valkey.delete(keys.leader(settings.cluster_name))


async def test_redis_away(cluster: KubernetesClient, settings: Settings, away_url: str):
    """What cannot be read is not compared, and says so."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away:
        nobodys = Precondition(keys.leader(settings.cluster_name), "none")
        store = Store(away)
        sync = ClusterSync(away, store.now, settings.cluster_name)
        pods = PodReflector(sync, PodCache(), store, cluster, settings, nobodys)
        with pytest.raises(StoreUnavailable):
            await relist(pods)


async def test_redis_comes_back(
    start_valkey: StartValkey, cluster: KubernetesClient, settings: Settings, kubernetes: Kubernetes
):
    """An observer outlives its Redis: it leads again when there is one, and looks at everything anew."""
    server = start_valkey()
    await calls(kubernetes)
    async with connect(settings_of(REDIS_URL=server.url), FAIL_FAST) as redis:
        store = Store(redis)
        sync = ClusterSync(redis, store.now, settings.cluster_name)
        observing = asyncio.create_task(
            Leader(redis, settings.cluster_name, reflector_tasks(store, sync, cluster, settings)).run()
        )
        await until_watching(kubernetes)
        server.stop()
        server.start()
        await until_watching(kubernetes, 2)
        assert (await calls(kubernetes))["list pods"] == 2
        assert not observing.done()
        await stopped(observing)
