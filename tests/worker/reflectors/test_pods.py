"""Pods as the observer's leader takes them in: list by list, and event by event."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import PreconditionFailed
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.names import object_name
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import new_incarnation, terminating
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition, Update
from tests.conftest import Clock
from tests.support.records import record_of
from tests.support.reflectors import relist, take_in
from tests.worker.conftest import Kubernetes, answers, empty, eventually, put, queued, read
from worker.jobs.provisioner import Provisioner
from worker.kubernetes import client as clusters
from worker.kubernetes import objects
from worker.kubernetes.client import PODS, KubernetesClient
from worker.kubernetes.errors import KubernetesError
from worker.kubernetes.labels import INCARNATION, SANDBOX_ID
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.pods import PodReflector

pytestmark = pytest.mark.anyio

ID, POD, SERVICE = "abc", "sandbox-abc", "sandbox-abc-svc"
Provision = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
def pods(
    store: Store, sync: ClusterSync, cluster: KubernetesClient, settings: Settings, leading: Precondition
) -> PodReflector:
    return PodReflector(sync, PodCache(), store, cluster, settings, leading)


@pytest.fixture
def provision(provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> Provision:
    """Return a function that provisions a sandbox whose Pod is ready, and which no reflector has seen."""

    async def begin(sandbox_id: str = ID, **fields: Any) -> Sandbox:
        record = await put(store, record_of(sandbox_id, **fields))
        await provisioner.provision(sandbox_id, record.incarnation, record.attempt)
        made = await read(store, sandbox_id)
        await kubernetes.ready(made.pod_name)
        return made

    return begin


async def as_event(cluster: KubernetesClient, name: str = POD, kind: str = "MODIFIED") -> clusters.WatchEvent[Any]:
    """Return the event that a watch would deliver for this Pod now."""
    (pod,) = (pod for pod in (await cluster.list_all(PODS)).items if pod.metadata.name == name)
    return clusters.WatchEvent(kind, pod)


async def story(store: Store, sandbox_id: str = ID) -> list[str]:
    return [entry.reason for entry in await store.history(sandbox_id)]


# Redis has lost a record


async def test_relist_redis_emptied_rebuilds_each_record_as_it_was(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis, sync: ClusterSync
):
    """Same incarnation, Pod, Service and URL."""
    before = [await provision(sandbox_id, spec={"user_id": "ada"}) for sandbox_id in ("a", "b", "c")]
    await empty(valkey)
    await relist(pods)
    for lost in before:
        found = await read(store, lost.id)
        assert (found.incarnation, found.spec, found.created_at) == (lost.incarnation, lost.spec, lost.created_at)
        assert (found.pod_uid, found.service_uid, found.url) == (lost.pod_uid, lost.service_uid, lost.url)
        assert (found.status, found.ready) == (Status.RUNNING, True)
        assert (await story(store, lost.id))[0] == "Adopted"
    assert await queued(valkey) == []
    assert await sync.has_synced()


async def test_relist_more_pods_than_reconciled_at_once_adopts_all(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, valkey: ArqRedis
):
    ids = [f"s{number}" for number in range(40)]
    for sandbox_id in ids:
        await kubernetes.create_legacy(sandbox_id, service=False)
    await empty(valkey)
    await relist(pods)
    assert sorted(record.id for record in await store.all()) == sorted(ids)


async def test_relist_pod_without_record_and_service_is_adopted_with_a_provision_job(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient, valkey: ArqRedis
):
    """The job creates the Service."""
    lost = await provision()
    await cluster.delete_service(SERVICE, lost.service_uid)
    await empty(valkey)
    await relist(pods)
    found = await read(store, ID)
    assert (found.ready, found.is_provisioned) == (True, False)
    assert await queued(valkey) == [Job.of(JobKind.PROVISION, found).id]


async def lose(store: Store) -> None:
    """Remove the record without a tombstone, as a Redis that went back in time does."""
    await store.create_or_update(ID, lambda _: Update(None))
    await store.redis.delete(f"sandbox:{ID}:tombstone")


async def test_relist_pod_of_deleted_sandbox_is_removed_by_a_job(
    store: Store,
    pods: PodReflector,
    provision: Provision,
    provisioner: Provisioner,
    valkey: ArqRedis,
    kubernetes: Kubernetes,
):
    """Kubernetes may carry out a create late. The tombstone tells such a Pod from a lost record."""
    made = await provision()
    await valkey.delete("arq:queue")
    await store.create_or_update(ID, lambda _: Update(None))
    await relist(pods)
    assert await store.get(ID) is None
    (job,) = await queued(valkey)
    assert job.startswith(f"terminate:{ID}:{made.incarnation}:")
    await provisioner.terminate(ID, made.incarnation, int(job.rpartition(":")[2]))
    await kubernetes.until_empty()


async def test_relist_one_pod_without_record_is_adopted(store: Store, pods: PodReflector, provision: Provision):
    lost, other = await provision(), await provision("other")
    await lose(store)
    await relist(pods)
    assert (await read(store, ID)).incarnation == lost.incarnation
    assert (await read(store, "other")).incarnation == other.incarnation


async def test_relist_record_created_after_the_read_is_updated_from_the_list(
    sync: ClusterSync,
    store: Store,
    cluster: KubernetesClient,
    settings: Settings,
    leading: Precondition,
    provision: Provision,
):
    """No watch event comes for this Pod: it is in the list already."""

    class Early(PodReflector):
        async def records(self) -> dict[str, Sandbox]:
            return {}

    provisioned = await provision()
    await relist(Early(sync, PodCache(), store, cluster, settings, leading))
    record = await read(store, ID)
    assert (record.incarnation, record.ready) == (provisioned.incarnation, True)


async def test_event_of_pod_without_record_adopts_it_at_once(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient
):
    """It does not wait for the next list."""
    lost = await provision()
    await lose(store)
    await take_in(pods, [await as_event(cluster)])
    found = await read(store, ID)
    assert (found.incarnation, found.url, found.ready) == (lost.incarnation, lost.url, True)


async def test_events_of_one_pod_the_last_counts(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, cluster: KubernetesClient
):
    await provision()
    early = await as_event(cluster)
    await kubernetes.ready(POD)
    ready = await as_event(cluster)
    await take_in(pods, [early, ready, clusters.WatchEvent("BOOKMARK", early.object)])
    record = await read(store, ID)
    assert (record.status, record.ready) == (Status.RUNNING, True)
    assert "Running" in await story(store)


async def test_pod_ready_and_deleted_at_once_history_has_both(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient
):
    await provision()
    ready = await as_event(cluster)
    await take_in(pods, [ready, clusters.WatchEvent("DELETED", ready.object)])
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
    assert record.timings.ready
    assert (await story(store))[-2:] == ["Ready", Reason.POD_LOST]


async def test_event_keeps_what_others_wrote_since_the_last_one(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient
):
    """No cached record is ever written over the present one."""
    await provision()
    early = await as_event(cluster)
    await take_in(pods, [early])
    await put(store, replace(await read(store, ID), last_used_at=12345.0))
    await take_in(pods, [clusters.WatchEvent("DELETED", early.object)])
    record = await read(store, ID)
    assert (record.status, record.reason, record.last_used_at) == (Status.FAILED, Reason.POD_LOST, 12345.0)


def look(record: Sandbox, version: int = 1, *, phase: str = "Pending", ready: bool = False) -> objects.Pod:
    """Return the Pod of a record, on a node."""
    conditions = (objects.Condition(type="Ready", status="True"),) if ready else ()
    labels = {SANDBOX_ID: record.id, INCARNATION: record.incarnation}
    name = object_name(record.id, record.incarnation)
    return objects.Pod(
        metadata=objects.ObjectMeta(name=name, uid=f"pod-{record.id}", resource_version=str(version), labels=labels),
        spec=objects.PodSpec(node_name="node-1"),
        status=objects.PodStatus(phase=phase, conditions=conditions),
    )


def modified(*pods: objects.Pod) -> list[clusters.WatchEvent[objects.Pod]]:
    return [clusters.WatchEvent("MODIFIED", pod) for pod in pods]


async def test_deferred_schedule_time_is_written_after_the_job_provisioned(
    sync: ClusterSync,
    store: Store,
    cluster: KubernetesClient,
    settings: Settings,
    leading: Precondition,
    clock: Clock,
):
    """Nothing else happens to the Pod. The time is the one at which the node was first seen."""
    pods = PodReflector(sync, PodCache(), store, cluster, settings, leading, deferred_seconds=0.05)
    record = await put(store, record_of(ID, now=clock()))
    scheduled_at = clock.now
    async with pods.reconciling():
        for event in modified(look(record)):
            pods.on_event(event)
        await pods.settle()
        assert await read(store, ID) == record
        clock.advance(5)
        await put(store, replace(record, pod_name=POD, pod_uid=f"pod-{ID}", service_uid="service"))

        async def is_written() -> bool:
            return (await read(store, ID)).timings.scheduled == scheduled_at

        await eventually(is_written, "the time of scheduling is in the record")


async def test_pod_ready_for_a_moment_keeps_its_ready_time(store: Store, pods: PodReflector, clock: Clock):
    """The event that showed it ready is superseded before it is reconciled."""
    record = await put(store, record_of(ID, now=clock(), pod_uid=f"pod-{ID}", service_uid="service", url="http://h"))
    looks = look(record, 1, phase="Running", ready=True), look(record, 2, phase="Running")
    await take_in(pods, modified(*looks))
    record = await read(store, ID)
    assert (record.ready, record.timings.ready) == (False, clock.now)


async def test_pod_that_cannot_be_reconciled_backs_off_alone(
    store: Store, pods: PodReflector, clock: Clock, cluster: KubernetesClient, monkeypatch: pytest.MonkeyPatch
):
    """Other Pods go on, and it is tried again until that succeeds."""
    record = await put(store, record_of(ID, now=clock(), pod_uid=f"pod-{ID}", service_uid="service", url="http://h"))
    pod = look(record_of("lost"), 13, phase="Running")
    tries = 0

    async def get_pod(_: str) -> objects.Pod:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise KubernetesError(503, "ServiceUnavailable", "for now")
        if tries == 2:
            raise ValueError("a bug, or an odd object")
        return pod

    async def get_service(_: str) -> None:
        return None

    monkeypatch.setattr(cluster, "get_pod", get_pod)
    monkeypatch.setattr(cluster, "get_service", get_service)
    async with pods.reconciling():
        for event in modified(pod, look(record, 11, phase="Running", ready=True)):
            pods.on_event(event)
        with pytest.raises(KubernetesError):
            await pods.settle()
        assert (await read(store, ID)).ready

        async def is_adopted() -> bool:
            return await store.get("lost") is not None

        await eventually(is_adopted, "the Pod is adopted at the third try")
    assert tries == 3


def rejected(record: Sandbox, version: int = 1, *, has_run: bool = False) -> objects.Pod:
    """Return the Pod of a record that the kubelet rejected for lack of room."""
    ended = objects.ContainerStateTerminated(exit_code=1)
    ran = objects.ContainerStatus(name="sandbox", state=objects.ContainerState(terminated=ended))
    status = objects.PodStatus(
        phase="Failed",
        reason="OutOfcpu",
        message="Node didn't have enough resource: cpu",
        container_statuses=(ran,) if has_run else (),
    )
    return replace(look(record, version), status=status)


async def test_pod_rejected_by_its_node_restarts_as_the_next_incarnation(
    store: Store, pods: PodReflector, clock: Clock, valkey: ArqRedis
):
    """Another Pod may fit. The deadline of the create stays."""
    deadline = clock.now + 300
    record = await put(store, record_of(ID, now=clock(), deadline=deadline, pod_uid=f"pod-{ID}", service_uid="s"))
    await take_in(pods, modified(rejected(record)))
    successor = await read(store, ID)
    assert (successor.generation, successor.status, successor.deadline) == (2, Status.PENDING, deadline)
    assert (successor.reason, "resource" in successor.message) == (Reason.UNSCHEDULABLE, True)
    jobs = await queued(valkey)
    assert sorted(jobs) == sorted(
        [f"terminate:{ID}:{record.incarnation}:2", f"provision:{ID}:{successor.incarnation}:1"]
    )


@pytest.mark.parametrize("case", ["a container ran", "deadline is over", "was ready"])
async def test_pod_failed_for_another_cause_fails_its_record(store: Store, pods: PodReflector, clock: Clock, case: str):
    deadline = None if case == "was ready" else clock.now if case == "deadline is over" else clock.now + 300
    record = await put(store, record_of(ID, now=clock(), deadline=deadline, pod_uid=f"pod-{ID}", service_uid="s"))
    await take_in(pods, modified(rejected(record, has_run=case == "a container ran")))
    after = await read(store, ID)
    assert (after.generation, after.status) == (1, Status.FAILED)


async def test_settle_one_pod_failed_raises_after_the_others_are_reconciled(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient, kubernetes: Kubernetes
):
    await provision()
    await provision("lost")
    await store.create_or_update("lost", lambda _: Update(None))
    known, unknown = await as_event(cluster), await as_event(cluster, "sandbox-lost")
    await kubernetes.set_faults({"kind": "error", "status": 403, "verb": "get"})
    with pytest.raises(KubernetesError):
        await take_in(pods, [unknown, known])
    assert (await read(store, ID)).ready


async def test_stale_event_of_deleted_pod_brings_no_record_back(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient, kubernetes: Kubernetes
):
    await provision()
    late = await as_event(cluster)
    await kubernetes.lose(POD)
    await store.create_or_update(ID, lambda _: Update(None))
    await take_in(pods, [late])
    assert await store.get(ID) is None


async def test_stale_event_of_pod_whose_name_is_reused_brings_no_record_back(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient, kubernetes: Kubernetes
):
    await provision()
    late = await as_event(cluster)
    await kubernetes.lose(POD)
    await kubernetes.create_pod(POD)
    await store.create_or_update(ID, lambda _: Update(None))
    await take_in(pods, [late])
    assert await store.get(ID) is None


@pytest.mark.parametrize("by", ["list", "event"])
async def test_terminating_pod_without_record_is_not_adopted(
    store: Store, pods: PodReflector, provision: Provision, cluster: KubernetesClient, kubernetes: Kubernetes, by: str
):
    lost = await provision()
    kept = {"metadata": {"finalizers": ["test/keep"]}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), kept, "application/merge-patch+json")
    await cluster.delete_pod(POD, lost.pod_uid)
    await store.create_or_update(ID, lambda _: Update(None))
    if by == "list":
        await relist(pods)
    else:
        await take_in(pods, [await as_event(cluster)])
    assert await store.get(ID) is None
    released = {"metadata": {"finalizers": None}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), released, "application/merge-patch+json")


async def test_relist_pod_unreadable_writes_no_synced_mark(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis, kubernetes: Kubernetes, sync: ClusterSync
):
    """The next list goes on."""
    await provision()
    await empty(valkey)
    await kubernetes.set_faults({"kind": "error", "status": 504, "verb": "get"})
    with pytest.raises(Exception, match="504"):
        await relist(pods)
    assert not await sync.has_synced()
    await kubernetes.set_faults()
    await relist(pods)
    assert await sync.has_synced()
    assert (await read(store, ID)).ready


# The id was asked for again before


async def test_relist_id_created_again_after_loss_gets_the_pod_that_lives(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis
):
    """The create came before the records were rebuilt."""
    lost = await provision(spec={"user_id": "ada"})
    await empty(valkey)
    await put(store, replace(record_of(ID, now=lost.created_at + 9), token="ffffffff"))
    await relist(pods)
    found = await read(store, ID)
    assert (found.incarnation, found.pod_uid, found.url, found.ready) == (
        lost.incarnation,
        lost.pod_uid,
        lost.url,
        True,
    )
    assert await story(store) == ["Accepted", "Adopted"]


async def test_relist_id_created_again_after_loss_and_deleted_removes_the_pod(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis
):
    lost = await provision()
    await empty(valkey)
    ending = await put(store, terminating(replace(record_of(ID), token="ffffffff")))
    await relist(pods)
    assert (await read(store, ID)).incarnation == ending.incarnation
    assert (await read(store, ID)).status is Status.TERMINATING
    (job,) = await queued(valkey)
    assert job.startswith(f"terminate:{ID}:{lost.incarnation}:")


async def test_relist_pod_of_another_incarnation_while_synced_is_removed_by_a_job(
    store: Store,
    pods: PodReflector,
    provision: Provision,
    provisioner: Provisioner,
    valkey: ArqRedis,
    kubernetes: Kubernetes,
):
    first = await provision()
    second = await put(store, new_incarnation(first, first.spec, now=first.created_at))
    await relist(pods)
    assert await read(store, ID) == second
    (job,) = await queued(valkey)
    assert job.startswith(f"terminate:{ID}:{first.incarnation}:")
    await provisioner.terminate(ID, first.incarnation, int(job.rpartition(":")[2]))
    await kubernetes.until_empty()


async def test_relist_after_a_step_back_touches_the_sandboxes_that_live(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis, clock: Clock
):
    """Uses since the data set was saved are lost. No sandbox in use may expire for that."""
    record = await provision()
    clock.advance(5000)
    await relist(pods)
    assert (await read(store, ID)).last_used_at == record.last_used_at
    await valkey.delete("synced:default")
    await relist(pods)
    assert (await read(store, ID)).last_used_at == clock.now
    revision = (await read(store, ID)).revision
    await relist(pods)
    assert (await read(store, ID)).revision == revision


async def test_relist_record_older_than_its_pod_is_replaced(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis
):
    """Redis lost its last second."""
    second = await provision(generation=2)
    older = record_of(ID, pod_uid="00000000-0000-0000-0000-000000000000", status=Status.RUNNING)
    await put(store, replace(older, created_at=second.created_at - 60))
    await relist(pods)
    found = await read(store, ID)
    assert (found.incarnation, found.pod_uid, found.ready) == (second.incarnation, second.pod_uid, True)
    assert await queued(valkey) == []


# What is not ours


async def test_relist_pod_copied_under_another_name_is_ignored(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes, cluster: KubernetesClient
):
    await provision()
    (original,) = await kubernetes.list_objects("pods")
    await kubernetes.create_pod("sandbox-abc-copy", labels=original["metadata"]["labels"])
    await relist(pods)
    found = await read(store, ID)
    assert (found.pod_name, found.ready) == (POD, True)
    await take_in(pods, [await as_event(cluster, "sandbox-abc-copy")])
    await take_in(pods, [await as_event(cluster, "sandbox-abc-copy", "DELETED")])
    assert await read(store, ID) == found
    assert await kubernetes.names("pods") == [POD, "sandbox-abc-copy"]


async def test_relist_legacy_pod_is_adopted_with_service_and_url(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, valkey: ArqRedis
):
    """Nothing of the legacy provisioner is touched."""
    legacy = await kubernetes.create_legacy(ID)
    await kubernetes.ready(POD)
    await relist(pods)
    found = await read(store, ID)
    assert (found.pod_uid, found.status, found.ready) == (legacy["metadata"]["uid"], Status.RUNNING, True)
    await eventually(lambda: answers(found.url), "the sandbox answers at its URL")
    assert await queued(valkey) == []
    again = await read(store, ID)
    await relist(pods)
    assert await read(store, ID) == again


async def test_legacy_pod_without_service_gets_one_and_answers(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, provisioner: Provisioner
):
    await kubernetes.create_legacy(ID, service=False)
    await kubernetes.ready(POD)
    await relist(pods)
    waiting = await read(store, ID)
    await provisioner.provision(ID, waiting.incarnation, waiting.attempt)
    served = await read(store, ID)
    assert served.is_provisioned
    await eventually(lambda: answers(served.url), "the sandbox answers at its URL")


async def test_legacy_sandbox_deleted_its_pod_and_service_go(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, provisioner: Provisioner
):
    await kubernetes.create_legacy(ID)
    await kubernetes.ready(POD)
    await relist(pods)
    ending = await put(store, terminating(await read(store, ID)))
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    await kubernetes.until_empty()
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    assert await store.get(ID) is None


# Signs of life


async def test_relist_and_watch_end_write_the_synced_mark(pods: PodReflector, sync: ClusterSync, clock: Clock):
    """The mark says when records and cluster last agreed."""
    async with pods.reconciling():
        for step in (pods.relist, pods.on_watch_closed):
            clock.advance(30)
            await step()
            assert await sync.synced_at() == clock.now


async def test_relist_lease_lost_adopts_nothing_and_writes_no_synced_mark(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis, sync: ClusterSync
):
    await provision()
    await valkey.flushall()
    with pytest.raises(PreconditionFailed):
        await relist(pods)
    assert await store.get(ID) is None
    assert not await sync.has_synced()


async def test_relist_unreadable_record_is_left_alone_and_others_are_updated(
    store: Store, pods: PodReflector, provision: Provision, valkey: ArqRedis, cluster: KubernetesClient
):
    await provision()
    await provision("other")
    await valkey.set(f"sandbox:{ID}", b"{}")
    await relist(pods)
    await take_in(pods, [await as_event(cluster)])
    await take_in(pods, [await as_event(cluster, kind="DELETED")])
    assert await valkey.get(f"sandbox:{ID}") == b"{}"
    assert (await read(store, "other")).ready
    assert await queued(valkey) == []


async def test_relist_pod_gone_fails_its_record_as_pod_lost(
    store: Store, pods: PodReflector, provision: Provision, kubernetes: Kubernetes
):
    await provision()
    await relist(pods)
    await kubernetes.lose(POD)
    await relist(pods)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
