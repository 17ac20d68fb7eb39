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
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio

ID = "abc"
POD, SERVICE = "sandbox-abc", "sandbox-abc-svc"
ACCEPTED = record_of(ID)
LIFE = ACCEPTED.incarnation
SECOND = "sandbox-abc-2"
FULL = "Internal error occurred: failed to allocate a nodePort: range is full"


@pytest.fixture
async def accepted(store: Store) -> Sandbox:
    """The record of a life that is wanted, and for which nothing is done yet."""
    return await put(store, ACCEPTED)


def uid(of: dict[str, Any]) -> str:
    found: str = of["metadata"]["uid"]
    return found


async def is_whole(kubernetes: Kubernetes, record: Sandbox, pod_name: str = POD) -> None:
    """One Pod, one Service of it, and a record that says where."""
    ((pod,), (service,)) = (await kubernetes.found("pods"), await kubernetes.found("services"))
    assert pod["metadata"]["name"] == pod_name
    assert service["metadata"]["name"] == f"{pod_name}-svc"
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [uid(pod)]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (record.pod_name, record.pod_uid) == (pod_name, uid(pod))
    assert record.url.endswith(f":{service['spec']['ports'][0]['nodePort']}")
    assert record.is_provisioned


# Provision


@pytest.mark.usefixtures("accepted")
async def test_provision(provisioner: Provisioner, store: Store, kubernetes: Kubernetes, settings: Settings):
    """A life gets its Pod and Service, and the record a URL at which the sandbox answers; its status is the Pod's."""
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert record.url.startswith(f"http://{settings.node_host}:")
    assert record.status is Status.PENDING
    await eventually(lambda: answers(record.url), "the sandbox answers at its URL")


async def test_cluster_ip(
    store: Store, sync: ClusterSync, cluster: KubernetesClient, environment: dict[str, str], kubernetes: Kubernetes
):
    """With ClusterIP the URL that the record was accepted with stays."""
    settings = read_settings({**environment, "SANDBOX_SERVICE_TYPE": "ClusterIP"})
    url = f"http://{SERVICE}.{kubernetes.namespace}.svc.cluster.local:8080"
    await put(store, replace(ACCEPTED, url=url))
    await Provisioner(store, sync, WorkerRegistry(store.redis, store.now), cluster, settings).provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.url, record.is_provisioned) == (url, True)
    assert [s["spec"]["type"] for s in await kubernetes.found("services")] == ["ClusterIP"]


@pytest.mark.usefixtures("accepted")
async def test_provision_twice_at_once(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """Two runs of one job make one Pod and one Service."""
    await asyncio.gather(*(provisioner.provision(ID, LIFE, 1) for _ in range(2)))
    await is_whole(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
async def test_provision_once_more(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A job that runs again after it was done changes nothing."""
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    await provisioner.provision(ID, LIFE, 1)
    assert await read(store, ID) == record
    await is_whole(kubernetes, record)


@pytest.mark.parametrize("service_too", [False, True], ids=["the Pod was made", "Pod and Service were made"])
async def test_provision_after_a_worker_died(
    provisioner: Provisioner,
    store: Store,
    cluster: KubernetesClient,
    kubernetes: Kubernetes,
    settings: Settings,
    service_too: bool,
):
    """Killed anywhere in between, a job goes on with what it had made."""
    accepted = await put(store, ACCEPTED)
    pod = await cluster.create_pod(manifests.pod(accepted, settings))
    if service_too:
        await cluster.create_service(manifests.service(accepted, pod.metadata.uid, settings))
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert record.pod_uid == pod.metadata.uid


async def test_a_service_made_before_the_node_ports_ran_out(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """A full range, which Kubernetes finds before it finds the name, does not hide what an earlier try has made."""
    accepted = await put(store, ACCEPTED)
    pod = await cluster.create_pod(manifests.pod(accepted, settings))
    await cluster.create_service(manifests.service(accepted, pod.metadata.uid, settings))
    full = {"kind": "error", "status": 500, "message": FULL, "verb": "create", "resource": "services"}
    await kubernetes.misbehave(full)
    await provisioner.provision(ID, LIFE, 1)
    await is_whole(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("resource", ["pods", "services"])
@pytest.mark.parametrize("lost", [{"kind": "reset"}, {"kind": "error", "status": 500}], ids=["reset", "500"])
async def test_an_answer_lost_after_the_write(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, resource: str, lost: dict[str, Any]
):
    """A create whose answer was lost doubles nothing."""
    await kubernetes.misbehave({**lost, "verb": "create", "resource": resource, "after": True, "times": 1})
    await provisioner.provision(ID, LIFE, 1)
    assert await kubernetes.struck() == [1]
    await is_whole(kubernetes, await read(store, ID))


@pytest.mark.usefixtures("accepted")
async def test_the_next_try_finds_the_pod_whose_answer_was_lost(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes
):
    """A time-out is not tried again at once: the job fails for now, its Pod is there, and the next goes on with it."""
    await kubernetes.misbehave({"kind": "error", "status": 504, "verb": "create", "resource": "pods", "after": True})
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    (pod,) = await kubernetes.found("pods")
    assert (await read(store, ID)).reason == Reason.CLUSTER_UNAVAILABLE
    await kubernetes.misbehave()
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert (record.incarnation, record.pod_uid) == (LIFE, uid(pod))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("incarnation", [None, "1-ffffffff"], ids=["nobody's", "an earlier life's that Redis forgot"])
async def test_the_next_try_finds_a_pod_that_is_not_its_own(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis, incarnation: str | None
):
    """Nothing came of the first try, and another Pod has the name meanwhile: it is not taken for the one whose answer
    was lost, and the next life begins."""
    await kubernetes.misbehave({"kind": "reset", "verb": "create", "resource": "pods"})
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    await kubernetes.misbehave()
    labels = {labelling.SANDBOX_ID: ID} | ({labelling.INCARNATION: incarnation} if incarnation else {})
    other = await kubernetes.made_pod(POD, labels=labels)
    await provisioner.provision(ID, LIFE, 1)
    following = await read(store, ID)
    assert (following.generation, following.is_provisioned) == (2, False)
    assert await queued(valkey) == [Job.of(JobKind.PROVISION, following).id]
    assert [uid(pod) for pod in await kubernetes.found("pods")] == [uid(other)]
    assert await kubernetes.names("services") == []


@pytest.mark.usefixtures("accepted")
async def test_name_taken_by_a_foreign_pod(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """A Pod of this name that is not of this life is left alone: the id goes on as its next life, by a job for it."""
    foreign = await kubernetes.made_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, LIFE, 1)
    following = await read(store, ID)
    assert (following.generation, following.status, following.url) == (2, Status.PENDING, "")
    assert following.spec == ACCEPTED.spec
    assert await queued(valkey) == [Job.of(JobKind.PROVISION, following).id]
    await provisioner.provision(ID, following.incarnation, 1)
    assert await kubernetes.names("pods") == [POD, SECOND]
    assert await kubernetes.names("services") == [f"{SECOND}-svc"]
    assert (await read(store, ID)).pod_name == SECOND
    (still,) = (pod for pod in await kubernetes.found("pods") if uid(pod) == uid(foreign))
    assert "deletionTimestamp" not in still["metadata"]


async def test_emptied_between_two_reads(
    provisioner: Provisioner, sync: ClusterSync, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
):
    """What two reads of one moment say may be of two: a Pod whose record was just lost is adopted, not removed."""
    await kubernetes.made_pod(POD, labels={"sandbox-id": ID})
    epochs = [await sync.dataset_id(), None]

    async def epoch() -> str | None:
        return epochs.pop(0)

    monkeypatch.setattr(sync, "epoch", epoch)
    await kubernetes.call("DELETE", "/emulator/calls")
    with pytest.raises(ClusterNotSynced):
        await provisioner.provision(ID, LIFE, 1)
    assert (await kubernetes.call("GET", "/emulator/calls")).body == {}


async def test_the_life_after_a_name_that_was_taken(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """It expires as was chosen for the one before."""
    await put(store, replace(ACCEPTED, idle_timeout=60.0, lifetime=600.0))
    await kubernetes.made_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, LIFE, 1)
    following = await read(store, ID)
    assert (following.generation, following.idle_timeout, following.lifetime) == (2, 60.0, 600.0)
    assert following.deadline == ACCEPTED.deadline, "nor has it longer to be made"


@pytest.mark.usefixtures("accepted")
async def test_its_own_pod_is_dying(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """A Pod that is terminating is never taken for the sandbox. This life's own was its one, though nobody had said so
    yet: the life ends with it."""
    pod = await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    kept = {"metadata": {"finalizers": ["test/keep"]}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), kept, "application/merge-patch+json")
    await cluster.delete_pod(POD, pod.metadata.uid)
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.generation, record.pod_uid, record.status, record.url) == (1, pod.metadata.uid, Status.PENDING, "")
    released = {"metadata": {"finalizers": None}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), released, "application/merge-patch+json")
    await kubernetes.until_empty()
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)


async def test_ids_whose_names_meet(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A later life of one id and the first of another may want one name: each gets a Pod and a Service of its own."""
    second = await put(store, new_incarnation(ACCEPTED, ACCEPTED.spec, now=ACCEPTED.created_at))
    await provisioner.provision(ID, second.incarnation, 1)
    other = await put(store, record_of("abc-2"))
    await provisioner.provision("abc-2", other.incarnation, 1)
    following = await read(store, "abc-2")
    await provisioner.provision("abc-2", following.incarnation, 1)
    assert (await read(store, ID)).pod_name == SECOND
    assert (await read(store, "abc-2")).pod_name == "sandbox-abc-2-2"
    assert await kubernetes.names("services") == ["sandbox-abc-2-2-svc", f"{SECOND}-svc"]


def _owner(pod_uid: str) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": pod_uid}


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    "owners",
    [[], [_owner("00000000-0000-0000-0000-000000000000")]],
    ids=["of the older provisioner", "of a Pod that is gone"],
)
async def test_a_stale_service(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, owners: list[dict[str, str]]
):
    """A Service of this id that an earlier Pod left behind is replaced, never taken for the sandbox."""
    stale = await kubernetes.made_service(SERVICE, labels={"sandbox-id": ID}, ownerReferences=owners)
    await provisioner.provision(ID, LIFE, 1)
    await is_whole(kubernetes, await read(store, ID))
    (service,) = await kubernetes.found("services")
    assert uid(service) != uid(stale)


@pytest.mark.usefixtures("accepted")
async def test_a_foreign_service(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A Service of this name that is nobody's sandbox is left alone, and the record says what is in the way."""
    foreign = await kubernetes.made_service(SERVICE, labels={"app": "something-else"})
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert record.status is Status.FAILED
    assert SERVICE in record.message
    await provisioner.terminate(ID, LIFE, record.attempt)
    await eventually(lambda: has_no_pods(kubernetes), "the Pod is removed")
    assert [uid(service) for service in await kubernetes.found("services")] == [uid(foreign)]


async def has_no_pods(kubernetes: Kubernetes) -> bool:
    return not await kubernetes.found("pods")


async def test_the_namespace_is_made(
    store: Store, sync: ClusterSync, cluster: KubernetesClient, environment: dict[str, str], kubernetes: Kubernetes
):
    """A namespace that is missing is made with the first sandbox."""
    assert (await kubernetes.delete("namespaces", kubernetes.namespace)).status == 200

    async def gone() -> bool:
        return (await kubernetes.get("namespaces", kubernetes.namespace)).status == 404

    await eventually(gone, "the namespace is gone")
    await put(store, ACCEPTED)
    await Provisioner(
        store, sync, WorkerRegistry(store.redis, store.now), cluster, read_settings(environment)
    ).provision(ID, LIFE, 1)
    await is_whole(kubernetes, await read(store, ID))


# Not wanted any more, before or in the middle


NOT_WANTED: dict[str, Callable[[Sandbox], Sandbox]] = {
    "being deleted": terminating,
    "failed": lambda record: failed(record, Reason.FORBIDDEN, "no"),
    "at a later attempt": next_attempt,
    "followed by another life": lambda record: new_incarnation(record, record.spec, now=record.created_at),
    "made": lambda record: provisioned(
        record, ProvisionedObjects(POD, "u", "service", "http://n:1"), now=record.created_at
    ),
}


async def test_what_an_earlier_try_left(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """A try that made a Pod, and died before it could see that nobody wants it any more: the next one removes it."""
    await cluster.create_namespace()
    pod = await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    await cluster.create_service(manifests.service(ACCEPTED, pod.metadata.uid, settings))
    await put(store, new_incarnation(ACCEPTED, ACCEPTED.spec, now=ACCEPTED.created_at))
    await provisioner.provision(ID, LIFE, 1)
    await kubernetes.until_empty()


@pytest.mark.parametrize("becomes", NOT_WANTED.values(), ids=NOT_WANTED)
async def test_a_late_job(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, becomes: Callable[[Sandbox], Sandbox]
):
    """A job for what is not wanted, not wanted any more, or another job's by now makes nothing and writes nothing."""
    record = await put(store, becomes(ACCEPTED))
    await provisioner.provision(ID, LIFE, 1)
    assert await read(store, ID) == record
    await kubernetes.until_empty()


@pytest.mark.usefixtures("kubernetes")
async def test_no_record(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A job whose record is gone does nothing."""
    await provisioner.provision(ID, LIFE, 1)
    assert await store.get(ID) is None
    await kubernetes.until_empty()


ENDS: dict[str, Callable[[Sandbox], Sandbox | None]] = {
    "deleted": terminating,
    "deleted and forgotten": lambda _: None,
    "replaced": lambda record: new_incarnation(record, record.spec, now=record.created_at),
}


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("resource", ["pods", "services"])
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_ended_in_the_middle(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    ends: Callable[[Sandbox], Sandbox | None],
    resource: str,
    after: bool,
):
    """Ended while its Pod or Service is being made, a life leaves nothing behind, and its record is not touched."""
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, b"this worker")
    slow = {"kind": "delay", "seconds": 0.3, "verb": "create", "resource": resource, "after": after}
    await kubernetes.misbehave(slow)
    provisioning = asyncio.create_task(provisioner.provision(ID, LIFE, 1))
    await kubernetes.until_struck()
    outcome = await store.create_or_update(ID, lambda record: Update(ends(record)) if record else None)
    await provisioning
    await kubernetes.until_empty()
    assert await store.get(ID) == outcome.record


# Refused


@pytest.fixture
async def baseline(kubernetes: Kubernetes) -> None:
    """The namespace enforces the baseline Pod security standard: no hostPath."""
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    path = kubernetes.path("namespaces", kubernetes.namespace)
    assert (await kubernetes.call("PATCH", path, labels, "application/merge-patch+json")).status == 200


@pytest.mark.usefixtures("accepted", "baseline")
async def test_refused_for_good(provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis):
    """What Kubernetes refuses for good fails at once, with its reason and its words, and a job to clean up."""
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.FORBIDDEN)
    assert 'violates PodSecurity "baseline:latest": hostPath volumes' in record.message
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]
    await kubernetes.until_empty()


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, Reason.INVALID), (401, Reason.UNAUTHORIZED), (403, Reason.FORBIDDEN), (422, Reason.INVALID)],
)
async def test_half_made_and_refused_for_good(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, status: int, reason: Reason
):
    """What was made before the refusal is removed; the record stays, to say what happened."""
    refusal = {"kind": "error", "status": status, "message": "because", "verb": "create", "resource": "services"}
    await kubernetes.misbehave(refusal)
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.status, record.reason, record.message) == (Status.FAILED, reason, "because")
    await provisioner.terminate(ID, LIFE, record.attempt)
    await kubernetes.until_empty()
    await provisioner.terminate(ID, LIFE, record.attempt)
    assert await read(store, ID) == record


@pytest.mark.usefixtures("accepted")
async def test_a_full_quota(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A quota that is full is temporary: the record waits and says why; the same job succeeds when there is room."""
    await kubernetes.made("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    with pytest.raises(KubernetesError, match="exceeded quota"):
        await provisioner.provision(ID, LIFE, 1)
    waiting = await read(store, ID)
    assert (waiting.status, waiting.reason) == (Status.PENDING, Reason.QUOTA_EXCEEDED)
    assert "exceeded quota" in waiting.message
    await kubernetes.delete("resourcequotas", "none")
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert (record.reason, record.message) == (Reason.NONE, "")


CONFLICT = (
    'Operation cannot be fulfilled on resourcequotas "few": the object has been modified; '
    "please apply your changes to the latest version and try again"
)
"""What Kubernetes answers, 409, when many Pods are made at once under one quota."""


@pytest.mark.usefixtures("accepted")
async def test_creates_that_meet_in_a_quota(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A conflict that is not about the name says nothing about the Pod: it is no failure of the sandbox."""
    conflict = {"kind": "error", "status": 409, "reason": "Conflict", "message": CONFLICT}
    await kubernetes.misbehave({**conflict, "verb": "create", "resource": "pods", "times": 1})
    with suppress(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    await provisioner.provision(ID, LIFE, 1)
    await is_whole(kubernetes, await read(store, ID))


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
async def test_temporary_trouble(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, trouble: dict[str, Any], reason: Reason
):
    """Trouble that may pass fails nothing: it is raised for another try, and the record says what stands in the way."""
    await kubernetes.misbehave(trouble)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.PENDING, reason)
    await kubernetes.misbehave()
    await provisioner.provision(ID, LIFE, 1)
    await is_whole(kubernetes, await read(store, ID))


async def test_the_deadline(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock, settings: Settings, valkey: ArqRedis
):
    """Trouble that lasts longer than provisioning may take ends the life, with the last that was in its way."""
    await kubernetes.made("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    await put(store, replace(ACCEPTED, deadline=clock.now + settings.provision_timeout_seconds))
    clock.advance(settings.provision_timeout_seconds - 1)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    clock.advance(1)
    await provisioner.provision(ID, LIFE, 1)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.PROVISIONING_TIMED_OUT)
    assert "exceeded quota: none" in record.message
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]


# What is in the cluster has to be known


@pytest.fixture
def unobserved(store: Store, valkey: ArqRedis, cluster: KubernetesClient, settings: Settings) -> Provisioner:
    """Of a worker that knows nothing of the cluster yet: Redis is new, or was emptied."""
    return Provisioner(
        store,
        ClusterSync(valkey, store.now, settings.cluster_name),
        WorkerRegistry(valkey, store.now),
        cluster,
        settings,
    )


@pytest.mark.usefixtures("accepted")
async def test_not_observed(
    unobserved: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis, leading: Precondition
):
    """Nothing is made before it is known what is there, and the record says why; then the same job makes it."""
    for _ in range(2):
        with pytest.raises(ClusterNotSynced):
            await unobserved.provision(ID, LIFE, 1)
    waiting = await read(store, ID)
    assert (waiting.status, waiting.reason) == (Status.PENDING, Reason.CLUSTER_UNAVAILABLE)
    assert waiting.message
    await kubernetes.until_empty()
    await ClusterSync(valkey, store.now, "default").mark_synced(leading)
    await unobserved.provision(ID, LIFE, 1)
    made = await read(store, ID)
    await is_whole(kubernetes, made)
    assert (made.reason, made.message) == (Reason.NONE, "")


async def test_not_observed_and_no_record(
    unobserved: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes, settings: Settings
):
    """A Pod whose record Redis has lost is not taken for what a job left behind."""
    await cluster.create_pod(manifests.pod(ACCEPTED, settings))
    with pytest.raises(ClusterNotSynced):
        await unobserved.provision(ID, LIFE, 1)
    assert await store.get(ID) is None
    (pod,) = await kubernetes.found("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_not_observed_in_time(unobserved: Provisioner, store: Store, kubernetes: Kubernetes):
    """A life that cannot be begun within its time has failed: nobody waits for ever."""
    await put(store, replace(ACCEPTED, deadline=store.now()))
    await unobserved.provision(ID, LIFE, 1)
    assert (await read(store, ID)).reason == Reason.PROVISIONING_TIMED_OUT
    await kubernetes.until_empty()


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("resource", ["pods", "services"])
async def test_emptied_in_the_middle(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis, resource: str
):
    """When Redis is emptied while a Pod is being made, the record is put back by the job that has the only copy."""
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, b"this worker")
    await kubernetes.misbehave({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": resource})
    provisioning = asyncio.create_task(provisioner.provision(ID, LIFE, 1))
    await kubernetes.until_struck()
    await valkey.flushall()
    await provisioning
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert (record.incarnation, record.spec) == (LIFE, ACCEPTED.spec)


@pytest.mark.usefixtures("accepted")
async def test_emptied_in_the_middle_and_asked_for_again(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """Unless the id was asked for again since: then that is the one that counts, and nothing of the other is left."""
    await kubernetes.misbehave({"kind": "delay", "seconds": 0.3, "verb": "create", "resource": "pods"})
    provisioning = asyncio.create_task(provisioner.provision(ID, LIFE, 1))
    await kubernetes.until_struck()
    await valkey.flushall()
    again = await put(store, replace(ACCEPTED, token="ffffffff"))
    await provisioning
    assert await read(store, ID) == again
    await kubernetes.until_empty()


# Repair


@pytest.fixture
async def unserved_one(
    provisioner: Provisioner, store: Store, cluster: KubernetesClient, kubernetes: Kubernetes
) -> Sandbox:
    """A life that was ready, and has lost its Service since."""
    await put(store, ACCEPTED)
    await provisioner.provision(ID, LIFE, 1)
    await kubernetes.ready(POD)
    made = await read(store, ID)
    await cluster.delete_service(SERVICE, made.service_uid)
    ready = replace(made, status=Status.RUNNING, ready=True)
    return await put(store, next_attempt(without_service(ready)))


async def test_another_service(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock, unserved_one: Sandbox
):
    """A sandbox that was ready gets another Service however long ago it was made: it does not time out any more."""
    clock.advance(100_000)
    await provisioner.provision(ID, LIFE, unserved_one.attempt)
    record = await read(store, ID)
    await is_whole(kubernetes, record)
    assert (record.status, record.ready, record.pod_uid) == (Status.RUNNING, True, unserved_one.pod_uid)
    assert record.timings == unserved_one.timings


@pytest.mark.parametrize("taken", [False, True], ids=["gone", "its name is another Pod's"])
async def test_its_pod_is_gone(
    provisioner: Provisioner,
    store: Store,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    unserved_one: Sandbox,
    taken: bool,
):
    """A life has one Pod: when that is gone it is lost, and no other is made in its place."""
    await kubernetes.lose(POD)
    if taken:
        await kubernetes.made_pod(POD, labels={"sandbox-id": ID})
    await provisioner.provision(ID, LIFE, unserved_one.attempt)
    record = await read(store, ID)
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)
    assert record.deadline is not None
    assert await queued(valkey) == [Job.of(JobKind.TERMINATE, record).id]
    assert await kubernetes.names("pods") == ([POD] if taken else [])
    assert await kubernetes.names("services") == []


async def test_its_pod_is_going(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, cluster: KubernetesClient, unserved_one: Sandbox
):
    """While its Pod goes nothing is made for it, and its end is the observer's to see."""
    kept = {"metadata": {"finalizers": ["test/keep"]}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), kept, "application/merge-patch+json")
    await cluster.delete_pod(POD, unserved_one.pod_uid)
    await provisioner.provision(ID, LIFE, unserved_one.attempt)
    assert await read(store, ID) == unserved_one
    assert await kubernetes.names("services") == []
    released = {"metadata": {"finalizers": None}}
    await kubernetes.call("PATCH", kubernetes.path("pods", POD), released, "application/merge-patch+json")


@pytest.mark.usefixtures("accepted")
async def test_when_it_was_taken_up(provisioner: Provisioner, store: Store, kubernetes: Kubernetes, clock: Clock):
    """Its time in the queue ends when a worker takes it up first, however often it is tried; it is made at the end."""
    await kubernetes.misbehave({"kind": "error", "status": 504, "verb": "create"})
    clock.advance(2)
    with pytest.raises(KubernetesError):
        await provisioner.provision(ID, LIFE, 1)
    await kubernetes.misbehave()
    clock.advance(3)
    await provisioner.provision(ID, LIFE, 1)
    timings = (await read(store, ID)).timings
    assert (timings.queued, timings.created) == (ACCEPTED.created_at + 2, ACCEPTED.created_at + 5)


# Terminate


@pytest.fixture
async def running(provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> Sandbox:
    """The record of a life with Pod and Service."""
    await put(store, ACCEPTED)
    await provisioner.provision(ID, LIFE, 1)
    await kubernetes.ready(POD)
    return await read(store, ID)


async def test_terminate(provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox):
    """Pod and Service go; the record is forgotten once they are gone, not before."""
    ending = await put(store, terminating(running))
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) == ending
    await kubernetes.until_empty()
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) is None


async def test_terminate_what_the_record_knows(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """Nothing is looked for: a delete of the Service, a delete of the Pod."""
    ending = await put(store, terminating(running))
    await kubernetes.call("DELETE", "/emulator/calls")
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    asked = (await kubernetes.call("GET", "/emulator/calls")).body
    assert asked == {"delete services": 1, "delete pods": 1}


async def test_terminate_what_the_record_does_not_know(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """Another Pod and Service of this very life than those it names go, too."""
    ending = await put(store, terminating(replace(running, pod_uid="another", service_uid="another")))
    await provisioner.terminate(ID, ending.incarnation, ending.attempt)
    await kubernetes.until_empty()


async def test_terminate_twice_at_once(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """Two runs of one job do what one does."""
    await put(store, terminating(running))
    await asyncio.gather(*(provisioner.terminate(ID, LIFE, 1) for _ in range(2)))
    await kubernetes.until_empty()


async def test_terminate_what_was_never_made(provisioner: Provisioner, store: Store):
    """A life that got nothing is forgotten at once."""
    await put(store, terminating(ACCEPTED))
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) is None


async def test_terminate_the_unknown(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """Ending what nobody knows is no error, and touches nothing that is not of that life."""
    await kubernetes.made_pod(POD)
    await kubernetes.made_service(SERVICE)
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) is None
    assert (await kubernetes.names("pods"), await kubernetes.names("services")) == ([POD], [SERVICE])
    (pod,) = await kubernetes.found("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_terminate_what_was_forgotten(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """A life without a record leaves no Pod and no Service either."""
    await store.create_or_update(ID, lambda _: Update(None))
    await provisioner.terminate(ID, running.incarnation, 1)
    await kubernetes.until_empty()


async def test_terminate_the_living(provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox):
    """A job that comes for a life which is wanted ends nothing."""
    await provisioner.terminate(ID, LIFE, 1)
    assert await read(store, ID) == running
    await is_whole(kubernetes, running)


async def test_terminate_an_earlier_life(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """The end of an earlier life takes its own Pod and Service, and nothing of the life that followed."""
    following = await put(store, new_incarnation(running, running.spec, now=running.created_at))
    await provisioner.provision(ID, following.incarnation, 1)
    following = await read(store, ID)
    await provisioner.terminate(ID, running.incarnation, 1)

    async def alone() -> bool:
        pods, services = await kubernetes.names("pods"), await kubernetes.names("services")
        return (pods, services) == ([SECOND], [f"{SECOND}-svc"])

    await eventually(alone, "only the following life is left")
    assert await read(store, ID) == following
    await is_whole(kubernetes, following, SECOND)


async def test_terminate_of_an_older_attempt(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox
):
    """A job that another has followed does nothing: its follower does it."""
    ending = await put(store, next_attempt(terminating(running)))
    await provisioner.terminate(ID, LIFE, 1)
    assert await read(store, ID) == ending
    (pod,) = await kubernetes.found("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_terminate_while_provisioning(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """While a job may still make a Pod for this life, its record is kept, to come back for what that job makes."""
    ending = await put(store, terminating(ACCEPTED))
    job = Job.of(JobKind.PROVISION, ACCEPTED)
    await valkey.set(keys.IN_PROGRESS + job.id, b"1")
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, LIFE, 1)
    assert await read(store, ID) == ending
    await valkey.delete(keys.IN_PROGRESS + job.id)
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) is None
    await kubernetes.until_empty()


async def test_terminate_while_an_earlier_attempt_provisions(provisioner: Provisioner, store: Store, valkey: ArqRedis):
    """It is not only the last attempt that may still be at it."""
    await put(store, terminating(replace(ACCEPTED, attempt=3)))
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, b"1")
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, LIFE, 3)


@pytest.mark.parametrize("beat", ["of now", "of long ago"])
async def test_terminate_while_a_worker_may_be_dead(
    provisioner: Provisioner, store: Store, valkey: ArqRedis, workers: WorkerRegistry, clock: Clock, beat: str
):
    """A worker that was killed makes no Pod any more, though its mark lasts: nobody waits for it."""
    await put(store, terminating(ACCEPTED))
    await valkey.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, ACCEPTED).id, b"host:1")
    await workers.beat("host:1")
    if beat == "of now":
        with pytest.raises(CleanupPending):
            await provisioner.terminate(ID, LIFE, 1)
        assert await store.get(ID)
        return
    clock.advance(ALIVE_SECONDS + 1)
    await provisioner.terminate(ID, LIFE, 1)
    assert await store.get(ID) is None


@pytest.mark.parametrize("trouble", [{"kind": "error", "status": 503}, {"kind": "reset"}], ids=["503", "reset"])
async def test_terminate_in_trouble(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox, trouble: dict[str, Any]
):
    """A cluster that does not answer is never taken for one in which the Pod is gone."""
    ending = await put(store, terminating(running))
    await kubernetes.misbehave(trouble)
    with pytest.raises(KubernetesError):
        await provisioner.terminate(ID, LIFE, 1)
    assert await read(store, ID) == ending
    await kubernetes.misbehave()
    await provisioner.terminate(ID, LIFE, 1)
    await kubernetes.until_empty()


@pytest.mark.parametrize("number", range(5))
async def test_delete_then_create_again_and_again(
    provisioner: Provisioner, store: Store, kubernetes: Kubernetes, running: Sandbox, number: int
):
    """However the jobs of an id's lives interleave, the last life has its Pod and Service, and no other is left."""
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

    await eventually(alone, "only the last life is left")
    await is_whole(kubernetes, last, last.pod_name)


async def test_terminate_before_an_earlier_life_is_gone(provisioner: Provisioner, store: Store, kubernetes: Kubernetes):
    """A record outlives every Pod of its id: one without a record would be taken for one whose record was lost."""
    first = await put(store, ACCEPTED)
    await provisioner.provision(ID, LIFE, 1)
    await put(store, terminating(new_incarnation(first, first.spec, now=first.created_at)))
    second = await read(store, ID)
    with pytest.raises(CleanupPending):
        await provisioner.terminate(ID, second.incarnation, 1)
    assert await read(store, ID) == second
    await kubernetes.until_empty()
    await provisioner.terminate(ID, second.incarnation, 1)
    assert await store.get(ID) is None
