"""Services as the observer's leader takes them in."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import PreconditionFailed
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.record import Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, provisioned, terminating
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from tests.support.records import record_of
from tests.support.reflectors import relist, take_in
from tests.worker.conftest import Kubernetes, answers, eventually, put, queued, read
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import SERVICES, KubernetesClient, WatchEvent
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.pods import PodReflector
from worker.reflectors.services import ServiceReflector

pytestmark = pytest.mark.anyio

ID, POD, SERVICE = "abc", "sandbox-abc", "sandbox-abc-svc"


@pytest.fixture
def services(store: Store, cluster: KubernetesClient, settings: Settings, leading: Precondition) -> ServiceReflector:
    return ServiceReflector(store, cluster, settings, leading)


@pytest.fixture
async def running(provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> Sandbox:
    """Return a ready sandbox with Pod and Service."""
    record = await put(store, record_of(ID))
    await provisioner.provision(ID, record.incarnation, 1)
    await kubernetes.ready(POD)
    return await put(store, replace(await read(store, ID), status=Status.RUNNING, ready=True))


async def service_event(cluster: KubernetesClient, kind: str) -> WatchEvent[Any]:
    """Return the event that a watch would deliver for the Service now."""
    (service,) = (await cluster.list_all(SERVICES)).items
    return WatchEvent(kind, service)


async def is_waiting_for_a_service(store: Store, redis: ArqRedis, before: Sandbox) -> None:
    record = await read(store, ID)
    assert (record.is_provisioned, record.url) == (False, "")
    assert (record.status, record.ready, record.pod_uid) == (before.status, before.ready, before.pod_uid)
    assert await queued(redis) == [Job.of(JobKind.PROVISION, record).id]
    assert (await store.history(ID))[-1].reason == "ServiceLost"


@pytest.mark.parametrize("by", ["list", "event"])
async def test_service_deleted_record_has_no_url_and_gets_another_service(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    provisioner: Provisioner,
    by: str,
):
    """The Pod stays the same."""
    deleted = await service_event(cluster, "DELETED")
    await cluster.delete_service(SERVICE, running.service_uid)
    if by == "list":
        await relist(services)
    else:
        await take_in(services, [deleted])
    await is_waiting_for_a_service(store, valkey, running)
    waiting = await read(store, ID)
    await provisioner.provision(ID, waiting.incarnation, waiting.attempt)
    served = await read(store, ID)
    assert (served.pod_uid, served.is_provisioned) == (running.pod_uid, True)
    assert served.service_uid != running.service_uid
    await eventually(lambda: answers(served.url), "the sandbox answers at its new URL")


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED"])
async def test_service_present_writes_nothing(
    store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient, kind: str
):
    await relist(services)
    await take_in(services, [await service_event(cluster, kind)])
    assert await read(store, ID) == running


async def test_service_deleted_told_twice_enqueues_one_job(
    store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient, valkey: ArqRedis
):
    deleted = await service_event(cluster, "DELETED")
    await cluster.delete_service(SERVICE, running.service_uid)
    for _ in range(2):
        await take_in(services, [deleted])
        await relist(services)
    await is_waiting_for_a_service(store, valkey, running)


async def test_stale_event_of_earlier_service_writes_nothing(
    store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient
):
    late = await service_event(cluster, "DELETED")
    present = await put(store, replace(running, service_uid="the present one"))
    await take_in(services, [late])
    assert await read(store, ID) == present


WANTS_NONE = {
    "being deleted": terminating,
    "failed": lambda record: replace(record, status=Status.FAILED),
    "succeeded": lambda record: replace(record, status=Status.SUCCEEDED),
    "of another cluster": lambda record: replace(record, cluster="another"),
}


@pytest.mark.parametrize("becomes", WANTS_NONE.values(), ids=WANTS_NONE)
async def test_service_of_inactive_record_or_other_cluster_is_not_created_again(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    becomes: Any,
):
    record = await put(store, becomes(running))
    await cluster.delete_service(SERVICE, running.service_uid)
    await relist(services)
    assert await read(store, ID) == record
    assert await queued(valkey) == []


async def test_record_without_service_has_not_lost_one(
    store: Store, services: ServiceReflector, valkey: ArqRedis, kubernetes: Kubernetes
):
    assert await kubernetes.names("services") == []
    record = await put(store, record_of(ID))
    await relist(services)
    assert await read(store, ID) == record
    assert await queued(valkey) == []


async def test_service_without_sandbox_id_is_ignored(
    store: Store, services: ServiceReflector, running: Sandbox, kubernetes: Kubernetes, cluster: KubernetesClient
):
    await kubernetes.create_service("strange", labels={"app": "deer-flow-sandbox"})
    await relist(services)
    for change in [
        WatchEvent("DELETED", s) for s in (await cluster.list_all(SERVICES)).items if s.metadata.name != SERVICE
    ]:
        await take_in(services, [change])
    assert await read(store, ID) == running
    assert await kubernetes.names("services") == [SERVICE, "strange"]


async def test_list_failed_loses_no_service(store: Store, services: ServiceReflector, kubernetes: Kubernetes):
    """A failed list is not an empty list."""
    made = provisioned(record_of(ID), ProvisionedObjects(POD, "u", "s", "http://h"), now=store.now())
    before = await put(store, made)
    await kubernetes.set_faults({"kind": "error", "status": 504, "verb": "list"})
    with pytest.raises(Exception, match="504"):
        await relist(services)
    assert await read(store, ID) == before


async def test_relist_lease_lost_removes_no_url(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    leading: Precondition,
):
    await cluster.delete_service(SERVICE, running.service_uid)
    await valkey.set(leading.key, "another's")
    with pytest.raises(PreconditionFailed):
        await relist(services)
    assert await read(store, ID) == running


# Services of the legacy provisioner, which have no owner


async def test_legacy_service_without_pod_is_removed_by_a_job(
    services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis, provisioner: Provisioner
):
    await kubernetes.create_legacy(ID)
    await kubernetes.lose(POD)
    await relist(services)
    (job,) = await queued(valkey)
    work, sandbox_id, incarnation, attempt = job.split(":")
    assert (work, sandbox_id) == ("terminate", ID)
    await provisioner.terminate(sandbox_id, incarnation, int(attempt))
    await kubernetes.until_empty()


async def test_legacy_service_with_pod_is_left_alone(
    store: Store,
    services: ServiceReflector,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    sync: ClusterSync,
    cluster: KubernetesClient,
    settings: Settings,
    leading: Precondition,
):
    """It may not be adopted yet."""
    await kubernetes.create_legacy(ID)
    await kubernetes.ready(POD)
    await relist(services)
    await relist(PodReflector(sync, PodCache(), store, cluster, settings, leading))
    adopted = await read(store, ID)
    await relist(services)
    assert await queued(valkey) == []
    assert await read(store, ID) == adopted
    assert await kubernetes.names("services") == [SERVICE]


async def test_legacy_service_of_id_with_record_is_left_alone(
    store: Store, services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The provision job of that record deals with it."""
    await kubernetes.create_legacy(ID)
    await kubernetes.lose(POD)
    await put(store, record_of(ID))
    await relist(services)
    assert await queued(valkey) == []


async def test_service_with_owner_is_left_to_kubernetes(
    services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis
):
    owner = {"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": "00000000-0000-0000-0000-000000000000"}
    labels = {"app": "deer-flow-sandbox", "sandbox-id": ID}
    await kubernetes.create_service(SERVICE, labels=labels, ownerReferences=[owner])
    await relist(services)
    assert await queued(valkey) == []
