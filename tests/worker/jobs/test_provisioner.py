import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, WorkerRegistry
from shared.queue.job import Job, JobKind
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
    failed,
    new_incarnation,
    next_attempt,
    provisioned,
    terminating,
    without_service,
)
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Precondition, Update
from tests.conftest import Clock
from tests.support.records import record_of
from tests.worker.conftest import Kubernetes, answers, eventually, put, queued, read
from worker import manifests
from worker.jobs.provisioner import CleanupPending, ClusterNotSynced, Provisioner
from worker.kubernetes import labels as labelling
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.config import configuration
from worker.kubernetes.denials import LASTING_SECONDS
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio

ID = "abc"
POD, SERVICE = "sandbox-abc", "sandbox-abc-svc"
ACCEPTED = record_of(ID)
INCARNATION = ACCEPTED.incarnation
SECOND = "sandbox-abc-2"
WORKER = "host:1:a"
FULL = "Internal error occurred: failed to allocate a nodePort: range is full"


@pytest.fixture
async def accepted(store: Store) -> Sandbox:
    """Write the record of an incarnation that waits for its provision job."""
    return await put(store, ACCEPTED)


def uid(found: dict[str, Any]) -> str:
    return str(found["metadata"]["uid"])


async def mark_provisioning(store: Store, workers: WorkerRegistry) -> str:
    """Mark the provision job as run by a living worker, and return the job's id."""
    job = Job.of(JobKind.PROVISION, ACCEPTED)
    await store.redis.set(keys.IN_PROGRESS + job.id, WORKER)
    await workers.beat(WORKER)
    return job.id


async def assert_complete(kubernetes: Kubernetes, record: Sandbox, pod_name: str = POD) -> None:
    """Check for one Pod, one Service of it, and a record that names both."""
    ((pod,), (service,)) = (await kubernetes.list_objects("pods"), await kubernetes.list_objects("services"))
    assert pod["metadata"]["name"] == pod_name
    assert service["metadata"]["name"] == f"{pod_name}-svc"
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [uid(pod)]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (record.pod_name, record.pod_uid) == (pod_name, uid(pod))
    assert record.url.endswith(f":{service['spec']['ports'][0]['nodePort']}")
    assert record.is_provisioned


# Provision


@pytest.mark.usefixtures("accepted")
async def test_provision_creates_pod_and_service_and_writes_the_url(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, settings: Settings
):
    """The sandbox answers at its URL. The status stays that of the Pod."""
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert record.url.startswith(f"http://{settings.node_host}:")
    assert record.status is Status.PENDING
    await eventually(lambda: answers(record.url), "the sandbox answers at its URL")


async def test_provision_with_cluster_ip_keeps_the_url_of_the_create(
    store: Store, sync: ClusterSync, cluster: KubernetesClient, environment: dict[str, str], kubernetes: Kubernetes
):
    settings = read_settings({**environment, "SANDBOX_SERVICE_TYPE": "ClusterIP"})
    url = f"http://{SERVICE}.{kubernetes.namespace}.svc.cluster.local:8080"
    await put(store, replace(ACCEPTED, url=url))
    await Provisioner(store, sync, WorkerRegistry(store.redis, store.now), cluster, settings).provision(
        ID, INCARNATION, 1
    )
    record = await read(store, ID)
    assert (record.url, record.is_provisioned) == (url, True)
    assert [s["spec"]["type"] for s in await kubernetes.list_objects("services")] == ["ClusterIP"]


@pytest.mark.usefixtures("accepted")
async def test_provision_twice_at_once_creates_one_pod_and_one_service(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    await asyncio.gather(*(provisioner.provision(ID, INCARNATION, 1) for _ in range(2)))
    await assert_complete(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
async def test_provision_of_provisioned_record_changes_nothing(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    await provisioner.provision(ID, INCARNATION, 1)
    assert await read(store, ID) == record
    await assert_complete(kubernetes, record)


@pytest.mark.parametrize("service_too", [False, True], ids=["Pod exists", "Pod and Service exist"])
async def test_provision_after_a_crash_continues_with_the_existing_objects(
    provisioner: Provisioner,
    store: Store,
    cluster: KubernetesClient,
    kubernetes: Kubernetes,
    settings: Settings,
    service_too: bool,
):
    accepted = await put(store, ACCEPTED)
    pod = await cluster.create_pod(manifests.pod(accepted, settings))
    if service_too:
        await cluster.create_service(manifests.service(accepted, pod.metadata.uid, settings))
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert record.pod_uid == pod.metadata.uid


async def test_provision_without_free_node_port_finds_the_existing_service(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """Kubernetes reports the missing port before it looks at the name."""
    accepted = await put(store, ACCEPTED)
    pod = await cluster.create_pod(manifests.pod(accepted, settings))
    await cluster.create_service(manifests.service(accepted, pod.metadata.uid, settings))
    full = {"kind": "error", "status": 500, "message": FULL, "verb": "create", "resource": "services"}
    await kubernetes.set_faults(full)
    await provisioner.provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("resource", ["pods", "services"])
@pytest.mark.parametrize("lost", [{"kind": "reset"}, {"kind": "error", "status": 500}], ids=["reset", "500"])
async def test_provision_with_lost_answer_of_create_doubles_nothing(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, resource: str, lost: dict[str, Any]
):
    await kubernetes.set_faults({**lost, "verb": "create", "resource": resource, "after": True, "times": 1})
    await provisioner.provision(ID, INCARNATION, 1)
    assert await kubernetes.count_faults() == [1]
    await assert_complete(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
async def test_provision_after_time_out_continues_with_the_created_pod(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    """A time-out is not repeated at once: this try fails, and the next one finds the Pod."""
    await kubernetes.set_faults({"kind": "error", "status": 504, "verb": "create", "resource": "pods", "after": True})
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    (pod,) = await kubernetes.list_objects("pods")
    assert (await read(store, ID)).reason == Reason.CLUSTER_UNAVAILABLE
    await kubernetes.set_faults()
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert (record.incarnation, record.pod_uid) == (INCARNATION, uid(pod))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("incarnation", [None, "1-ffffffff"], ids=["without incarnation", "of a forgotten incarnation"])
async def test_provision_after_lost_create_does_not_take_another_pod_with_its_name(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis, incarnation: str | None
):
    """Nothing came of the first try, and the name is taken by now. The next incarnation begins."""
    await kubernetes.set_faults({"kind": "reset", "verb": "create", "resource": "pods"})
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    await kubernetes.set_faults()
    labels = {labelling.SANDBOX_ID: ID} | ({labelling.INCARNATION: incarnation} if incarnation else {})
    other = await kubernetes.create_pod(POD, labels=labels)
    await provisioner.provision(ID, INCARNATION, 1)
    successor = await read(store, ID)
    assert (successor.generation, successor.is_provisioned) == (2, False)
    assert Job.of(JobKind.PROVISION, successor).id in await queued(valkey)
    assert [uid(pod) for pod in await kubernetes.list_objects("pods")] == [uid(other)]
    assert await kubernetes.names("services") == []


@pytest.mark.usefixtures("accepted")
async def test_provision_with_taken_pod_name_continues_as_next_incarnation(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The other Pod is left alone."""
    foreign = await kubernetes.create_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, INCARNATION, 1)
    successor = await read(store, ID)
    assert (successor.generation, successor.status, successor.url) == (2, Status.PENDING, "")
    assert successor.spec == ACCEPTED.spec
    cleanup = f"terminate:{ID}:{INCARNATION}:2"
    assert set(await queued(valkey)) == {cleanup, Job.of(JobKind.PROVISION, successor).id}
    await provisioner.provision(ID, successor.incarnation, 1)
    assert await kubernetes.names("pods") == [POD, SECOND]
    assert await kubernetes.names("services") == [f"{SECOND}-svc"]
    assert (await read(store, ID)).pod_name == SECOND
    (still,) = (pod for pod in await kubernetes.list_objects("pods") if uid(pod) == uid(foreign))
    assert "deletionTimestamp" not in still["metadata"]


class EmptiedSync(ClusterSync):
    """The sync of a Redis that is emptied after the first read of the dataset id."""

    reads = 0

    async def dataset_id(self) -> str | None:
        self.reads += 1
        return await super().dataset_id() if self.reads == 1 else None


async def test_provision_with_redis_emptied_between_two_reads_removes_nothing(
    store: Store,
    sync: ClusterSync,
    workers: WorkerRegistry,
    cluster: KubernetesClient,
    kubernetes: Kubernetes,
    settings: Settings,
):
    """A Pod whose record was just lost must be adopted."""
    await kubernetes.create_pod(POD, labels={"sandbox-id": ID})
    await kubernetes.call("DELETE", "/emulator/calls")
    emptied = EmptiedSync(store.redis, store.now, sync.cluster)
    with pytest.raises(ClusterNotSynced):
        await Provisioner(store, emptied, workers, cluster, settings).provision(ID, INCARNATION, 1)
    assert emptied.reads == 2
    assert (await kubernetes.call("GET", "/emulator/calls")).body == {}


async def test_provision_with_taken_pod_name_keeps_expiry_and_deadline(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    await put(store, replace(ACCEPTED, idle_timeout=60.0, lifetime=600.0))
    await kubernetes.create_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, INCARNATION, 1)
    successor = await read(store, ID)
    assert (successor.generation, successor.idle_timeout, successor.lifetime) == (2, 60.0, 600.0)
    assert successor.deadline == ACCEPTED.deadline, "the next incarnation has no more time"


@pytest.mark.usefixtures("accepted")
async def test_provision_with_terminating_pod_waits_for_its_end_and_fails(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """Check for a terminating Pod that the record does not name yet.

    It is never taken for the sandbox. An incarnation gets no second Pod.
    """
    pod = await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    kept = {"metadata": {"finalizers": ["test/keep"]}}
    assert (
        await kubernetes.call("PATCH", kubernetes.path("pods", POD), kept, "application/merge-patch+json")
    ).status == 200
    await cluster.delete_pod(POD, pod.metadata.uid)
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.generation, record.pod_uid, record.status, record.url) == (1, pod.metadata.uid, Status.PENDING, "")
    released = {"metadata": {"finalizers": None}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), released, "application/merge-patch+json")
    await kubernetes.until_empty()
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)


async def test_provision_of_ids_with_the_same_object_name_gives_each_its_own(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    """The second incarnation of `abc` and the first one of `abc-2` have the same name."""
    second = await put(store, new_incarnation(ACCEPTED, ACCEPTED.spec, now=ACCEPTED.created_at))
    await provisioner.provision(ID, second.incarnation, 1)
    other = await put(store, record_of("abc-2"))
    await provisioner.provision("abc-2", other.incarnation, 1)
    successor = await read(store, "abc-2")
    await provisioner.provision("abc-2", successor.incarnation, 1)
    assert (await read(store, ID)).pod_name == SECOND
    assert (await read(store, "abc-2")).pod_name == "sandbox-abc-2-2"
    assert await kubernetes.names("services") == ["sandbox-abc-2-2-svc", f"{SECOND}-svc"]


def _owner(pod_uid: str) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": pod_uid}


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    "owners",
    [[], [_owner("00000000-0000-0000-0000-000000000000")]],
    ids=["of the legacy provisioner", "of a Pod that is gone"],
)
async def test_provision_replaces_service_of_an_older_pod(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, owners: list[dict[str, str]]
):
    stale = await kubernetes.create_service(SERVICE, labels={"sandbox-id": ID}, ownerReferences=owners)
    await provisioner.provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))
    (service,) = await kubernetes.list_objects("services")
    assert uid(service) != uid(stale)


@pytest.mark.usefixtures("accepted")
async def test_provision_with_service_name_taken_continues_with_the_next_incarnation(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The other Service is left alone, and a job removes the Pod of this incarnation."""
    foreign = await kubernetes.create_service(SERVICE, labels={"app": "something-else"})
    await provisioner.provision(ID, INCARNATION, 1)
    successor = await read(store, ID)
    assert (successor.generation, successor.status) == (2, Status.PENDING)
    assert f"terminate:{ID}:{INCARNATION}:2" in await queued(valkey)
    await provisioner.provision(ID, successor.incarnation, 1)
    await provisioner.terminate(ID, INCARNATION, 2)
    assert (await read(store, ID)).url
    services = {uid(service) for service in await kubernetes.list_objects("services")}
    assert uid(foreign) in services
    assert len(services) == 2


@pytest.mark.usefixtures("accepted")
async def test_provision_after_a_lost_service_keeps_the_node_port(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient
):
    """The URL stays, so that a client that knows it goes on."""
    await provisioner.provision(ID, INCARNATION, 1)
    before = await read(store, ID)
    await cluster.delete_service(SERVICE, before.service_uid)
    lost = await put(store, next_attempt(without_service(before)))
    await provisioner.provision(ID, INCARNATION, lost.attempt)
    after = await read(store, ID)
    assert (after.url, after.pod_uid) == (before.url, before.pod_uid)
    assert after.service_uid != before.service_uid


@pytest.mark.usefixtures("accepted")
async def test_provision_after_a_lost_service_takes_another_node_port_if_that_one_is_taken(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes
):
    await provisioner.provision(ID, INCARNATION, 1)
    before = await read(store, ID)
    await cluster.delete_service(SERVICE, before.service_uid)
    ports = [{"port": 80, "nodePort": before.node_port}]
    await kubernetes.create_object("services", "other", spec={"type": "NodePort", "ports": ports})
    lost = await put(store, next_attempt(without_service(before)))
    await provisioner.provision(ID, INCARNATION, lost.attempt)
    after = await read(store, ID)
    assert after.url
    assert after.url != before.url


async def test_provision_creates_missing_namespace(
    store: Store, sync: ClusterSync, cluster: KubernetesClient, environment: dict[str, str], kubernetes: Kubernetes
):
    assert (await kubernetes.delete("namespaces", kubernetes.namespace)).status == 200

    async def gone() -> bool:
        return (await kubernetes.get("namespaces", kubernetes.namespace)).status == 404

    await eventually(gone, "the namespace is gone")
    await put(store, ACCEPTED)
    await Provisioner(
        store, sync, WorkerRegistry(store.redis, store.now), cluster, read_settings(environment)
    ).provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))


# Records that change before or during the job


CHANGED: dict[str, Callable[[Sandbox], Sandbox]] = {
    "being deleted": terminating,
    "failed": lambda record: failed(record, Reason.FORBIDDEN, "no"),
    "at a later attempt": next_attempt,
    "followed by another incarnation": lambda record: new_incarnation(record, record.spec, now=record.created_at),
    "provisioned": lambda record: provisioned(
        record, ProvisionedObjects(POD, "u", "service", "http://n:1"), now=record.created_at
    ),
}


async def test_provision_of_replaced_incarnation_removes_what_an_earlier_try_left(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    await cluster.create_namespace()
    pod = await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    await cluster.create_service(manifests.service(ACCEPTED, pod.metadata.uid, settings))
    await put(store, new_incarnation(ACCEPTED, ACCEPTED.spec, now=ACCEPTED.created_at))
    await provisioner.provision(ID, INCARNATION, 1)
    await kubernetes.until_empty()


@pytest.mark.parametrize("becomes", CHANGED.values(), ids=CHANGED)
async def test_provision_of_inactive_or_changed_record_does_nothing(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, becomes: Callable[[Sandbox], Sandbox]
):
    record = await put(store, becomes(ACCEPTED))
    await provisioner.provision(ID, INCARNATION, 1)
    assert await read(store, ID) == record
    await kubernetes.until_empty()


@pytest.mark.usefixtures("kubernetes")
async def test_provision_without_record_does_nothing(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    await provisioner.provision(ID, INCARNATION, 1)
    assert await store.get(ID) is None
    await kubernetes.until_empty()


ENDS: dict[str, Callable[[Sandbox], Sandbox | None]] = {
    "deleted": terminating,
    "deleted with its record": lambda _: None,
    "replaced": lambda record: new_incarnation(record, record.spec, now=record.created_at),
}


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("resource", ["pods", "services"])
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_provision_of_record_that_ends_meanwhile_leaves_nothing_behind(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    workers: WorkerRegistry,
    ends: Callable[[Sandbox], Sandbox | None],
    resource: str,
    after: bool,
):
    """The record is not touched."""
    await mark_provisioning(store, workers)
    slow = {"kind": "delay", "seconds": 0.3, "verb": "create", "resource": resource, "after": after}
    await kubernetes.set_faults(slow)
    provisioning = asyncio.create_task(provisioner.provision(ID, INCARNATION, 1))
    await kubernetes.until_fault()
    outcome = await store.create_or_update(ID, lambda record: Update(ends(record)) if record else None)
    await provisioning
    await kubernetes.until_empty()
    assert await store.get(ID) == outcome.record


async def test_provision_that_finds_its_pod_terminating_leaves_the_next_incarnation_alone(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """A client deletes and creates the sandbox while the job looks for its Pod.

    The uid of that Pod in the next incarnation's record would make the next provision job fail with PodLost.
    """
    pod = await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    finalizer = {"metadata": {"finalizers": ["test/keep"]}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), finalizer, "application/merge-patch+json")
    await cluster.delete_pod(POD, pod.metadata.uid)
    record = await put(store, replace(ACCEPTED, pod_uid=pod.metadata.uid))
    await kubernetes.set_faults({"kind": "delay", "seconds": 0.3, "verb": "get", "resource": "pods"})
    provisioning = asyncio.create_task(provisioner.provision(ID, INCARNATION, 1))
    await kubernetes.until_fault()
    successor = await put(store, new_incarnation(record, record.spec, now=record.created_at))
    await provisioning
    assert await read(store, ID) == successor


# Refusals


@pytest.fixture
async def baseline(kubernetes: Kubernetes) -> None:
    """Enforce the baseline Pod security standard, which forbids hostPath."""
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    path = kubernetes.path("namespaces", kubernetes.namespace)
    assert (await kubernetes.call("PATCH", path, labels, "application/merge-patch+json")).status == 200


@pytest.mark.usefixtures("accepted", "baseline")
async def test_provision_with_permanent_error_fails_at_once_with_its_cause(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """A job removes what was created."""
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.FORBIDDEN)
    assert 'violates PodSecurity "baseline:latest": hostPath volumes' in record.message
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]
    await kubernetes.until_empty()


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, Reason.INVALID), (422, Reason.INVALID)],
)
async def test_provision_refused_halfway_keeps_the_failed_record(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, status: int, reason: Reason
):
    """The terminate job removes what was created before the refusal."""
    refusal = {"kind": "error", "status": status, "message": "because", "verb": "create", "resource": "services"}
    await kubernetes.set_faults(refusal)
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason, record.message) == (Status.FAILED, reason, "because")
    await provisioner.terminate(ID, INCARNATION, record.attempt)
    await kubernetes.until_empty()
    await provisioner.terminate(ID, INCARNATION, record.attempt)
    assert await read(store, ID) == record


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(("status", "reason"), [(401, Reason.UNAUTHORIZED), (403, Reason.FORBIDDEN)])
async def test_provision_without_rights_waits_and_fails_if_that_lasts(
    store: Store,
    sync: ClusterSync,
    workers: WorkerRegistry,
    kubernetes: Kubernetes,
    settings: Settings,
    clock: Clock,
    status: int,
    reason: Reason,
):
    """A token or a Role may be on its way to the API server."""
    refusal = {"kind": "error", "status": status, "message": "because", "verb": "create", "resource": "services"}
    await kubernetes.set_faults(refusal)
    async with KubernetesClient(await configuration(settings), kubernetes.namespace, 10, clock=clock) as client:
        provisioner = Provisioner(store, sync, workers, client, settings)
        for _ in range(int(LASTING_SECONDS / 10)):
            with pytest.raises(KubernetesError):
                await provisioner.provision(ID, INCARNATION, 1)
            waiting = await read(store, ID)
            assert (waiting.status, waiting.reason, waiting.message) == (Status.PENDING, reason, "because")
            clock.advance(10)
        await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason, record.message) == (Status.FAILED, reason, "because")


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(("status", "times"), [(401, 2), (403, 1)])
async def test_provision_after_a_single_refusal_completes(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, status: int, times: int
):
    """The client itself repeats a call after a 401."""
    refusal = {"kind": "error", "status": status, "verb": "create", "resource": "pods", "times": times}
    await kubernetes.set_faults(refusal)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    await provisioner.provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
async def test_provision_with_full_quota_waits_and_says_why(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    await kubernetes.create_object("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    with pytest.raises(KubernetesError, match="exceeded quota"):
        await provisioner.provision(ID, INCARNATION, 1)
    waiting = await read(store, ID)
    assert (waiting.status, waiting.reason) == (Status.PENDING, Reason.QUOTA_EXCEEDED)
    assert "exceeded quota" in waiting.message
    await kubernetes.delete("resourcequotas", "none")
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert (record.reason, record.message) == (Reason.NONE, "")


CONFLICT = (
    'Operation cannot be fulfilled on resourcequotas "few": the object has been modified; '
    "please apply your changes to the latest version and try again"
)
"""Kubernetes' answer, 409, if many Pods are created at once under one quota."""


@pytest.mark.usefixtures("accepted")
async def test_provision_with_write_conflict_in_quota_does_not_fail(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    """A conflict that is not about the name says nothing about the Pod."""
    conflict = {"kind": "error", "status": 409, "reason": "Conflict", "message": CONFLICT}
    await kubernetes.set_faults({**conflict, "verb": "create", "resource": "pods", "times": 1})
    with suppress(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    await provisioner.provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"kind": "error", "status": 503}, Reason.CLUSTER_UNAVAILABLE),
        ({"kind": "error", "status": 429, "retry_after": 5}, Reason.CLUSTER_UNAVAILABLE),
        ({"kind": "error", "status": 504}, Reason.CLUSTER_UNAVAILABLE),
        ({"kind": "reset"}, Reason.CLUSTER_UNAVAILABLE),
        ({"kind": "error", "status": 500, "message": FULL, "resource": "services"}, Reason.NODE_PORTS_EXHAUSTED),
    ],
    ids=["503", "429", "504", "reset", "no node port left"],
)
async def test_provision_with_temporary_error_retries_and_says_why(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, trouble: dict[str, Any], reason: Reason
):
    await kubernetes.set_faults(trouble)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.PENDING, reason)
    await kubernetes.set_faults()
    await provisioner.provision(ID, INCARNATION, 1)
    await assert_complete(kubernetes, await read(store, ID))


async def test_provision_at_its_deadline_fails_with_the_last_cause(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock, settings: Settings, valkey: ArqRedis
):
    await kubernetes.create_object("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    await put(store, replace(ACCEPTED, deadline=clock.now + settings.provision_timeout_seconds))
    clock.advance(settings.provision_timeout_seconds - 1)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    clock.advance(1)
    await provisioner.provision(ID, INCARNATION, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.QUOTA_EXCEEDED)
    assert "in time" in record.message
    assert "exceeded quota: none" in record.message
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]


# A cluster that is not synced


@pytest.fixture
def unsynced(store: Store, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings) -> Provisioner:
    """Return the provisioner of a worker whose Redis is new or was emptied."""
    return Provisioner(
        store,
        ClusterSync(valkey, store.now, settings.cluster_name),
        WorkerRegistry(valkey, store.now),
        cluster,
        settings,
    )


@pytest.mark.usefixtures("accepted")
async def test_provision_before_the_sync_waits_and_says_why(
    unsynced: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis, leading: Precondition
):
    for _ in range(2):
        with pytest.raises(ClusterNotSynced):
            await unsynced.provision(ID, INCARNATION, 1)
    waiting = await read(store, ID)
    assert (waiting.status, waiting.reason) == (Status.PENDING, Reason.CLUSTER_UNAVAILABLE)
    assert waiting.message
    await kubernetes.until_empty()
    await ClusterSync(valkey, store.now, "default").mark_synced(leading)
    await unsynced.provision(ID, INCARNATION, 1)
    made = await read(store, ID)
    await assert_complete(kubernetes, made)
    assert (made.reason, made.message) == (Reason.NONE, "")


async def test_provision_before_the_sync_leaves_pod_without_record_alone(
    unsynced: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """Redis may have lost the record."""
    await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    with pytest.raises(ClusterNotSynced):
        await unsynced.provision(ID, INCARNATION, 1)
    assert await store.get(ID) is None
    (pod,) = await kubernetes.list_objects("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_provision_before_the_sync_fails_at_its_deadline(
    unsynced: Provisioner, store: Store, kubernetes: Kubernetes
):
    await put(store, replace(ACCEPTED, deadline=store.now()))
    await unsynced.provision(ID, INCARNATION, 1)
    assert (await read(store, ID)).reason == Reason.PROVISIONING_TIMED_OUT
    await kubernetes.until_empty()


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("resource", ["pods", "services"])
async def test_provision_with_redis_emptied_meanwhile_writes_its_record_back(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    resource: str,
    workers: WorkerRegistry,
):
    """The job has the only copy."""
    await mark_provisioning(store, workers)
    await kubernetes.set_faults({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": resource})
    provisioning = asyncio.create_task(provisioner.provision(ID, INCARNATION, 1))
    await kubernetes.until_fault()
    await valkey.flushall()
    await provisioning
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert (record.incarnation, record.spec) == (INCARNATION, ACCEPTED.spec)


@pytest.mark.usefixtures("accepted")
async def test_provision_of_deleted_record_with_redis_restarted_meanwhile_leaves_nothing_behind(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """A restart makes the synced mark invalid. The tombstone shows that the record was deleted and not lost."""
    await kubernetes.set_faults({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": "services"})
    provisioning = asyncio.create_task(provisioner.provision(ID, INCARNATION, 1))
    await kubernetes.until_fault()
    await store.create_or_update(ID, lambda record: Update(None) if record else None)
    await valkey.delete(keys.synced("default"))
    await provisioning
    assert await store.get(ID) is None
    await kubernetes.until_empty()


async def test_provision_with_redis_gone_back_before_its_create_writes_its_record_back(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The tombstone is of an older incarnation. So the record was lost and not deleted."""
    await put(store, ACCEPTED)
    await store.create_or_update(ID, lambda record: Update(None) if record else None)
    tombstone = await valkey.get(keys.tombstone(ID))
    assert tombstone is not None
    second = await put(store, new_incarnation(ACCEPTED, ACCEPTED.spec, now=ACCEPTED.created_at))
    await kubernetes.set_faults({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": "services"})
    provisioning = asyncio.create_task(provisioner.provision(ID, second.incarnation, 1))
    await kubernetes.until_fault()
    await valkey.flushall()
    await valkey.set(keys.tombstone(ID), tombstone)
    await provisioning
    await assert_complete(kubernetes, await read(store, ID), SECOND)


@pytest.mark.usefixtures("accepted")
async def test_provision_with_redis_emptied_and_id_created_again_leaves_its_pod_to_the_leader(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """Only the leader can tell which of the two is newer. It adopts the Pod, or removes it."""
    await kubernetes.set_faults({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": "pods"})
    provisioning = asyncio.create_task(provisioner.provision(ID, INCARNATION, 1))
    await kubernetes.until_fault()
    await valkey.flushall()
    again = await put(store, replace(ACCEPTED, token="ffffffff"))
    with pytest.raises(ClusterNotSynced):
        await provisioning
    assert await read(store, ID) == again
    (pod,) = await kubernetes.list_objects("pods")
    assert "deletionTimestamp" not in pod["metadata"]


# Repair


@pytest.fixture
async def without_service_record(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes
) -> Sandbox:
    """Write the record of a sandbox that was ready, and lost its Service."""
    await put(store, ACCEPTED)
    await provisioner.provision(ID, INCARNATION, 1)
    await kubernetes.ready(POD)
    made = await read(store, ID)
    await cluster.delete_service(SERVICE, made.service_uid)
    ready = replace(made, status=Status.RUNNING, ready=True)
    return await put(store, next_attempt(without_service(ready)))


async def test_provision_of_lost_service_creates_another_whatever_the_deadline(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock, without_service_record: Sandbox
):
    """A sandbox that was ready does not time out any more."""
    clock.advance(100_000)
    await provisioner.provision(ID, INCARNATION, without_service_record.attempt)
    record = await read(store, ID)
    await assert_complete(kubernetes, record)
    assert (record.status, record.ready, record.pod_uid) == (Status.RUNNING, True, without_service_record.pod_uid)
    assert record.timings == without_service_record.timings


@pytest.mark.parametrize("taken", [False, True], ids=["gone", "name taken"])
async def test_provision_of_lost_service_without_pod_fails_as_pod_lost(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    without_service_record: Sandbox,
    taken: bool,
):
    """An incarnation gets no second Pod."""
    await kubernetes.lose(POD)
    if taken:
        await kubernetes.create_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, INCARNATION, without_service_record.attempt)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
    assert record.deadline is not None
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]
    assert await kubernetes.names("pods") == ([POD] if taken else [])
    assert await kubernetes.names("services") == []


async def test_provision_of_lost_service_with_terminating_pod_changes_nothing(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    cluster: KubernetesClient,
    without_service_record: Sandbox,
):
    """The leader sees the Pod's end."""
    kept = {"metadata": {"finalizers": ["test/keep"]}}
    assert (
        await kubernetes.call("PATCH", kubernetes.path("pods", POD), kept, "application/merge-patch+json")
    ).status == 200
    await cluster.delete_pod(POD, without_service_record.pod_uid)
    await provisioner.provision(ID, INCARNATION, without_service_record.attempt)
    assert await read(store, ID) == without_service_record
    assert await kubernetes.names("services") == []
    released = {"metadata": {"finalizers": None}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), released, "application/merge-patch+json")


@pytest.mark.usefixtures("accepted")
async def test_provision_stamps_first_start_and_creation(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock
):
    await kubernetes.set_faults({"kind": "error", "status": 504, "verb": "create"})
    clock.advance(2)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, INCARNATION, 1)
    await kubernetes.set_faults()
    clock.advance(3)
    await provisioner.provision(ID, INCARNATION, 1)
    timings = (await read(store, ID)).timings
    assert (timings.queued, timings.created) == (ACCEPTED.created_at + 2, ACCEPTED.created_at + 5)


# Terminate


@pytest.fixture
async def running(provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> Sandbox:
    """Return the record of a sandbox with Pod and Service."""
    await put(store, ACCEPTED)
    await provisioner.provision(ID, INCARNATION, 1)
    await kubernetes.ready(POD)
    return await read(store, ID)


async def test_terminate_deletes_pod_and_service_and_then_the_record(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """The record stays until both are gone."""
    ending = await put(store, terminating(running))
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) == ending
    await kubernetes.until_empty()
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None


async def test_terminate_of_provisioned_record_looks_nothing_up(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    ending = await put(store, terminating(running))
    await kubernetes.call("DELETE", "/emulator/calls")
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    asked = (await kubernetes.call("GET", "/emulator/calls")).body
    assert asked == {"delete services": 1, "delete pods": 1}


async def test_terminate_with_other_uids_in_the_record_deletes_the_existing_objects(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    ending = await put(store, terminating(replace(running, pod_uid="another", service_uid="another")))
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    await kubernetes.until_empty()


async def test_terminate_twice_at_once_deletes_everything(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    await put(store, terminating(running))
    await asyncio.gather(*(provisioner.terminate(ID, INCARNATION, 1) for _ in range(2)))
    await kubernetes.until_empty()


async def test_terminate_without_objects_deletes_the_record_at_once(provisioner: Provisioner, store: Store):
    await put(store, terminating(ACCEPTED))
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None


async def test_terminate_without_record_leaves_other_objects_alone(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    await kubernetes.create_pod(POD)
    await kubernetes.create_service(SERVICE)
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None
    assert (await kubernetes.names("pods"), await kubernetes.names("services")) == ([POD], [SERVICE])
    (pod,) = await kubernetes.list_objects("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_terminate_without_record_deletes_the_incarnations_objects(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    await store.create_or_update(ID, lambda _: Update(None))
    await provisioner.terminate(ID, running.incarnation, 1)
    await kubernetes.until_empty()


async def test_terminate_of_active_record_does_nothing(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await read(store, ID) == running
    await assert_complete(kubernetes, running)


async def test_terminate_of_older_incarnation_leaves_the_next_one_alone(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    successor = await put(store, new_incarnation(running, running.spec, now=running.created_at))
    await provisioner.provision(ID, successor.incarnation, 1)
    successor = await read(store, ID)
    await provisioner.terminate(ID, running.incarnation, 1)

    async def alone() -> bool:
        pods, services = await kubernetes.names("pods"), await kubernetes.names("services")
        return (pods, services) == ([SECOND], [f"{SECOND}-svc"])

    await eventually(alone, "only the next incarnation is left")
    assert await read(store, ID) == successor
    await assert_complete(kubernetes, successor, SECOND)


async def test_terminate_of_older_attempt_does_nothing(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    ending = await put(store, next_attempt(terminating(running)))
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await read(store, ID) == ending
    (pod,) = await kubernetes.list_objects("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_terminate_while_a_provision_job_runs_keeps_the_record(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, workers: WorkerRegistry
):
    """The provision job may still create a Pod."""
    ending = await put(store, terminating(ACCEPTED))
    job_id = await mark_provisioning(store, workers)
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, INCARNATION, 1)
    assert await read(store, ID) == ending
    await store.redis.delete(keys.IN_PROGRESS + job_id)
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None
    await kubernetes.until_empty()


async def test_terminate_while_an_earlier_attempt_provisions_keeps_the_record(
    provisioner: Provisioner, store: Store, workers: WorkerRegistry
):
    await put(store, terminating(replace(ACCEPTED, attempt=3)))
    await mark_provisioning(store, workers)
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, INCARNATION, 3)


async def test_terminate_while_a_marked_worker_is_dead_does_not_wait(
    provisioner: Provisioner, store: Store, workers: WorkerRegistry, clock: Clock
):
    """A killed worker's mark lasts a while."""
    await put(store, terminating(ACCEPTED))
    await mark_provisioning(store, workers)
    clock.advance(ALIVE_SECONDS - 1)
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID)
    clock.advance(2)
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None


async def test_terminate_while_a_marked_worker_is_unregistered_does_not_wait(
    provisioner: Provisioner, store: Store, workers: WorkerRegistry
):
    """A worker that stopped has removed itself."""
    await put(store, terminating(ACCEPTED))
    await mark_provisioning(store, workers)
    await workers.remove(WORKER)
    await provisioner.terminate(ID, INCARNATION, 1)
    assert await store.get(ID) is None


@pytest.mark.parametrize("trouble", [{"kind": "error", "status": 503}, {"kind": "reset"}], ids=["503", "reset"])
async def test_terminate_without_answer_of_kubernetes_keeps_the_record(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox, trouble: dict[str, Any]
):
    """No answer does not mean that the Pod is gone."""
    ending = await put(store, terminating(running))
    await kubernetes.set_faults(trouble)
    with pytest.raises(KubernetesError):
        await provisioner.terminate(ID, INCARNATION, 1)
    assert await read(store, ID) == ending
    await kubernetes.set_faults()
    await provisioner.terminate(ID, INCARNATION, 1)
    await kubernetes.until_empty()


@pytest.mark.parametrize("number", range(5))
async def test_interleaved_jobs_of_many_incarnations_leave_the_last_one(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox, number: int
):
    incarnations = [running]
    for _ in range(number + 1):
        await put(store, terminating(incarnations[-1]))
        incarnations.append(await put(store, new_incarnation(incarnations[-1], running.spec, now=running.created_at)))
    ends = [provisioner.terminate(ID, incarnation.incarnation, 1) for incarnation in incarnations[:-1]]
    begins = [provisioner.provision(ID, incarnation.incarnation, 1) for incarnation in incarnations]
    await asyncio.gather(*begins, *ends)
    last = await read(store, ID)
    assert last.incarnation == incarnations[-1].incarnation

    async def alone() -> bool:
        return await kubernetes.names("pods") == [last.pod_name]

    await eventually(alone, "only the last incarnation is left")
    await assert_complete(kubernetes, last, last.pod_name)


async def test_terminate_before_older_pods_are_gone_keeps_the_record(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    """A Pod without a record would be adopted."""
    first = await put(store, ACCEPTED)
    await provisioner.provision(ID, INCARNATION, 1)
    await put(store, terminating(new_incarnation(first, first.spec, now=first.created_at)))
    second = await read(store, ID)
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, second.incarnation, 1)
    assert await read(store, ID) == second
    await kubernetes.until_empty()
    await provisioner.terminate(ID, second.incarnation, 1)
    assert await store.get(ID) is None
