"""Objects that cannot be decoded: each concerns its own sandbox only, and no other one is adopted, ended or hidden."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace
from structlog.testing import capture_logs

from shared.liveness.sync import ClusterSync
from shared.sandbox.record import Reason, Sandbox, Status
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from tests.support.counts import Counts
from tests.support.records import record_of
from tests.support.reflectors import relist, take_in
from tests.support.spoiler import Spoiler, spoiling
from tests.worker.conftest import Emulator, Kubernetes, empty, put, queued, read
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import PODS, KubernetesClient, WatchEvent
from worker.kubernetes.config import configuration
from worker.kubernetes.labels import INCARNATION, RECORD
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.pods import PodReflector
from worker.reflectors.services import ServiceReflector

pytestmark = pytest.mark.anyio

LEVELS = 3000
WITH_UID = '{"metadata": {"name": "odd", "uid": "{uid}"}, "status": {"phase": 7}, "spec": []}'
WITHOUT_UID = '{"metadata": 7}'
DEEP = '{"metadata": {"name": "odd", "uid": "{uid}"}, "x": ' + "[" * LEVELS + "]" * LEVELS + "}"


@pytest.fixture
async def spoiler(emulator: Emulator) -> AsyncIterator[Spoiler]:
    async with spoiling(emulator.url) as running:
        yield running


@pytest.fixture
async def client(settings: Settings, spoiler: Spoiler, kubernetes: Kubernetes) -> AsyncIterator[KubernetesClient]:
    """The leader's client, which gets odd objects."""
    spoiled = replace(settings, k8s_api_server=spoiler.url)
    async with KubernetesClient(await configuration(spoiled), kubernetes.namespace, 10) as opened:
        yield opened


@pytest.fixture
def pods(
    store: Store, sync: ClusterSync, client: KubernetesClient, settings: Settings, leading: Precondition
) -> PodReflector:
    return PodReflector(sync, PodCache(), store, client, settings, leading)


@pytest.fixture
async def running(provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> list[Sandbox]:
    """Three ready sandboxes that no reflector has seen."""
    return [await provision(sandbox_id, provisioner, store, kubernetes) for sandbox_id in ("a", "odd", "b")]


async def provision(sandbox_id: str, provisioner: Provisioner, store: Store, kubernetes: Kubernetes) -> Sandbox:
    record = await put(store, record_of(sandbox_id))
    await provisioner.provision(sandbox_id, record.incarnation, record.attempt)
    await kubernetes.ready(f"sandbox-{sandbox_id}")
    return await read(store, sandbox_id)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("odd", [WITH_UID, DEEP, WITHOUT_UID], ids=["a wrong type", "too many levels", "no uid"])
@pytest.mark.parametrize("seen_before", [False, True], ids=["at first", "after it was readable"])
async def test_odd_pod_leaves_its_record_and_the_others_are_updated(
    store: Store, pods: PodReflector, spoiler: Spoiler, odd: str, seen_before: bool
):
    if seen_before:
        await relist(pods)
    before = await read(store, "odd")
    spoiler.odd["sandbox-odd"] = odd
    counts = Counts()
    for _ in range(2):
        await relist(pods)
    assert await read(store, "odd") == before
    assert [(record.id, record.ready) for record in await store.all() if record.id != "odd"] == [
        ("a", True),
        ("b", True),
    ]
    assert counts.gained()["deerflow_unreadable_objects_total", "pods"] == 2


@pytest.mark.usefixtures("running")
async def test_odd_pod_does_not_hide_others_after_the_records_are_lost(
    store: Store, pods: PodReflector, spoiler: Spoiler, valkey: ArqRedis, sync: ClusterSync
):
    await empty(valkey)
    spoiler.odd["sandbox-odd"] = WITHOUT_UID
    await relist(pods)
    assert [record.id for record in await store.all()] == ["a", "b"]
    assert await sync.has_synced()
    spoiler.odd.clear()
    await relist(pods)
    assert {record.id for record in await store.all()} == {"a", "b", "odd"}


@pytest.mark.usefixtures("running")
async def test_pod_is_missing_only_from_a_list_that_is_complete(
    store: Store, pods: PodReflector, spoiler: Spoiler, kubernetes: Kubernetes
):
    """An object without uid could be the one that seems to be missing."""
    await kubernetes.lose("sandbox-a")
    spoiler.odd["sandbox-odd"] = WITHOUT_UID
    await relist(pods)
    assert (await read(store, "a")).is_active
    spoiler.odd["sandbox-odd"] = WITH_UID
    await relist(pods)
    assert [(r.id, r.status, r.reason) for r in await store.all() if not r.is_active] == [
        ("a", Status.FAILED, Reason.POD_LOST)
    ]


@pytest.mark.usefixtures("running")
async def test_deletion_of_odd_pod_ends_its_sandbox(store: Store, pods: PodReflector, client: KubernetesClient):
    """The watch shows its uid and nothing else."""
    await relist(pods)
    (pod,) = (pod for pod in (await client.list_all(PODS)).items if pod.metadata.name == "sandbox-odd")
    bare = replace(pod.metadata, labels={}, annotations={})
    await take_in(pods, [WatchEvent("DELETED", PODS.kind(metadata=bare))])
    record = await read(store, "odd")
    assert (record.status, record.reason) == (Status.FAILED, Reason.POD_LOST)


@pytest.mark.parametrize("odd", [WITH_UID, DEEP, WITHOUT_UID], ids=["a wrong type", "too many levels", "no uid"])
async def test_odd_service_is_not_lost(
    store: Store,
    client: KubernetesClient,
    settings: Settings,
    leading: Precondition,
    running: list[Sandbox],
    spoiler: Spoiler,
    valkey: ArqRedis,
    odd: str,
):
    services = ServiceReflector(store, client, settings, leading)
    spoiler.odd["sandbox-odd-svc"] = odd
    await relist(services)
    assert {record.id: record.url for record in await store.all()} == {record.id: record.url for record in running}
    assert await queued(valkey) == []


# The annotation of a Pod


async def create_pod(kubernetes: Kubernetes, annotation: str, sandbox_id: str = "odd") -> dict[str, Any]:
    """Create a Pod with a sandbox's labels, name and annotation."""
    labels = {"app": "deer-flow-sandbox", "sandbox-id": sandbox_id, INCARNATION: "1-0a1b2c3d"}
    name = f"sandbox-{sandbox_id}"
    pod = await kubernetes.create_pod(name, labels=labels, annotations={RECORD: annotation})
    await kubernetes.ready(name)
    return pod


HOSTILE = {
    "a list": "[" * LEVELS + "]" * LEVELS,
    "a field": '{"created_at": 1, "spec": {"extra_mounts": ' + "[" * LEVELS + "]" * LEVELS + "}}",
    "an unknown field": '{"x": ' + '{"x": ' * LEVELS + "1" + "}" * LEVELS + "}",
    "not closed": "[" * 100_000,
}


@pytest.mark.parametrize("annotation", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("has_record", [False, True], ids=["without record", "with a later incarnation"])
async def test_pod_with_hostile_annotation_is_neither_adopted_nor_removed(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, valkey: ArqRedis, annotation: str, has_record: bool
):
    """Both workers exited before, and again at each restart."""
    pod = await create_pod(kubernetes, annotation)
    await kubernetes.create_legacy("other")
    await kubernetes.ready("sandbox-other")
    if has_record:
        await put(store, record_of("odd", generation=2))
    await valkey.delete("arq:queue")
    counts = Counts()
    with capture_logs() as lines:
        for _ in range(2):
            await relist(pods)
    assert await queued(valkey) == []
    assert [record.generation for record in await store.all() if record.id == "odd"] == [2] * has_record
    assert (await read(store, "other")).ready
    found = (await kubernetes.get("pods", "sandbox-odd")).body
    assert (found["metadata"]["uid"], "deletionTimestamp" in found["metadata"]) == (pod["metadata"]["uid"], False)
    assert counts.gained()["deerflow_unreadable_objects_total", "pods"] == 2
    assert len([line for line in lines if line["event"] == "unreadable object skipped"]) == 1
    assert not [line for line in lines if line["log_level"] == "error"]


TIMES = ["1e300", "-1", "0", "1", "1.8e12", "9e9", "1e400", "NaN", "Infinity", "null", '"now"', "-0.0", "9" * 400]


@pytest.mark.parametrize("created_at", TIMES)
async def test_pod_with_impossible_time_is_adopted_with_its_own_creation_time(
    store: Store, pods: PodReflector, kubernetes: Kubernetes, created_at: str
):
    """The record can be read, and the sandbox does not expire at once."""
    pod = await create_pod(kubernetes, f'{{"spec": {{"lifetime_seconds": 60}}, "created_at": {created_at}}}')
    await relist(pods)
    record = await read(store, "odd")
    assert (record.ready, record.pod_uid) == (True, pod["metadata"]["uid"])
    assert abs(record.created_at - store.now()) < 2 * 365 * 86_400
    assert [found.id for found in await store.all()] == ["odd"]
