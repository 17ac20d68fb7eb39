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
    """A life with Pod and Service, which is ready and was observed so."""
    record = await put(store, record_of(ID))
    await provisioner.provision(ID, record.incarnation, 1)
    await kubernetes.ready(POD)
    return await put(store, replace(await read(store, ID), status=Status.RUNNING, ready=True))


async def told(cluster: KubernetesClient, kind: str) -> WatchEvent[Any]:
    """What a watch would tell of the Service that there is."""
    (service,) = (await cluster.list_all(SERVICES)).items
    return WatchEvent(kind, service)


async def is_being_served_anew(store: Store, redis: ArqRedis, before: Sandbox) -> None:
    record = await read(store, ID)
    assert (record.is_provisioned, record.url) == (False, "")
    assert (record.status, record.ready, record.pod_uid) == (before.status, before.ready, before.pod_uid)
    assert await queued(redis) == [Job.of(JobKind.PROVISION, record).id]
    assert (await store.history(ID))[-1].reason == "ServiceLost"


@pytest.mark.parametrize("by", ["list", "event"])
async def test_lost(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    provisioner: Provisioner,
    by: str,
):
    """A sandbox whose Service was deleted says that it has no URL, and gets another one, with the same Pod."""
    deleted = await told(cluster, "DELETED")
    await cluster.delete_service(SERVICE, running.service_uid)
    if by == "list":
        await relist(services)
    else:
        await take_in(services, [deleted])
    await is_being_served_anew(store, valkey, running)
    waiting = await read(store, ID)
    await provisioner.provision(ID, waiting.incarnation, waiting.attempt)
    served = await read(store, ID)
    assert (served.pod_uid, served.is_provisioned) == (running.pod_uid, True)
    assert served.service_uid != running.service_uid
    await eventually(lambda: answers(served.url), "the sandbox answers at its new URL")


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED"])
async def test_there(store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient, kind: str):
    """A Service that is there needs nothing."""
    await relist(services)
    await take_in(services, [await told(cluster, kind)])
    assert await read(store, ID) == running


async def test_lost_once(
    store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient, valkey: ArqRedis
):
    """However often it is told, it is lost once, and one job makes the next."""
    deleted = await told(cluster, "DELETED")
    await cluster.delete_service(SERVICE, running.service_uid)
    for _ in range(2):
        await take_in(services, [deleted])
        await relist(services)
    await is_being_served_anew(store, valkey, running)


async def test_an_earlier_service(
    store: Store, services: ServiceReflector, running: Sandbox, cluster: KubernetesClient
):
    """That the Service before the present one is gone, as a late event tells, is nothing new."""
    late = await told(cluster, "DELETED")
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
async def test_what_wants_no_service(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    becomes: Any,
):
    """A life that is over, or being ended, needs no Service any more; another cluster's is not looked for here."""
    record = await put(store, becomes(running))
    await cluster.delete_service(SERVICE, running.service_uid)
    await relist(services)
    assert await read(store, ID) == record
    assert await queued(valkey) == []


async def test_not_made_yet(store: Store, services: ServiceReflector, valkey: ArqRedis, kubernetes: Kubernetes):
    """What never had a Service has not lost it."""
    assert await kubernetes.names("services") == []
    record = await put(store, record_of(ID))
    await relist(services)
    assert await read(store, ID) == record
    assert await queued(valkey) == []


async def test_strangers(
    store: Store, services: ServiceReflector, running: Sandbox, kubernetes: Kubernetes, cluster: KubernetesClient
):
    """A Service with our label and no sandbox' id is left alone."""
    await kubernetes.made_service("strange", labels={"app": "deer-flow-sandbox"})
    await relist(services)
    for change in [
        WatchEvent("DELETED", s) for s in (await cluster.list_all(SERVICES)).items if s.metadata.name != SERVICE
    ]:
        await take_in(services, [change])
    assert await read(store, ID) == running
    assert await kubernetes.names("services") == [SERVICE, "strange"]


async def test_a_list_that_fails(store: Store, services: ServiceReflector, kubernetes: Kubernetes):
    """A list that cannot be had is no empty one."""
    made = provisioned(record_of(ID), ProvisionedObjects(POD, "u", "s", "http://h"), now=store.now())
    before = await put(store, made)
    await kubernetes.misbehave({"kind": "error", "status": 504, "verb": "list"})
    with pytest.raises(Exception, match="504"):
        await relist(services)
    assert await read(store, ID) == before


async def test_a_former_leader(
    store: Store,
    services: ServiceReflector,
    running: Sandbox,
    cluster: KubernetesClient,
    valkey: ArqRedis,
    leading: Precondition,
):
    """Whoever has lost the lease takes no URL away."""
    await cluster.delete_service(SERVICE, running.service_uid)
    await valkey.set(leading.key, "another's")
    with pytest.raises(PreconditionFailed):
        await relist(services)
    assert await read(store, ID) == running


# The older provisioner's, which have no owner


async def test_an_orphan(
    services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis, provisioner: Provisioner
):
    """A Service that stayed when its Pod went is removed by a job."""
    await kubernetes.made_older(ID)
    await kubernetes.lose(POD)
    await relist(services)
    (job,) = await queued(valkey)
    work, sandbox_id, incarnation, attempt = job.split(":")
    assert (work, sandbox_id) == ("terminate", ID)
    await provisioner.terminate(sandbox_id, incarnation, int(attempt))
    await kubernetes.until_empty()


async def test_one_whose_pod_lives(
    store: Store,
    services: ServiceReflector,
    kubernetes: Kubernetes,
    valkey: ArqRedis,
    sync: ClusterSync,
    cluster: KubernetesClient,
    settings: Settings,
    leading: Precondition,
):
    """A Service whose Pod lives is left alone, whether or not it was adopted yet."""
    await kubernetes.made_older(ID)
    await kubernetes.ready(POD)
    await relist(services)
    await relist(PodReflector(sync, PodCache(), store, cluster, settings, leading))
    adopted = await read(store, ID)
    await relist(services)
    assert await queued(valkey) == []
    assert await read(store, ID) == adopted
    assert await kubernetes.names("services") == [SERVICE]


async def test_one_whose_id_has_a_record(
    store: Store, services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis
):
    """While the id has a sandbox, whoever makes that deals with what is in its way."""
    await kubernetes.made_older(ID)
    await kubernetes.lose(POD)
    await put(store, record_of(ID))
    await relist(services)
    assert await queued(valkey) == []


async def test_of_a_sandbox_of_ours(services: ServiceReflector, kubernetes: Kubernetes, valkey: ArqRedis):
    """A Service that has an owner goes with it, by Kubernetes: nobody else removes it."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": "00000000-0000-0000-0000-000000000000"}
    labels = {"app": "deer-flow-sandbox", "sandbox-id": ID}
    await kubernetes.made_service(SERVICE, labels=labels, ownerReferences=[owner])
    await relist(services)
    assert await queued(valkey) == []
