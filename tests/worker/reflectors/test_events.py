"""What Kubernetes tells in Events: for people, and for what no Pod shows by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import PreconditionFailed
from shared.sandbox.names import object_name
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import terminating
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from tests.support.records import record_of
from tests.support.reflectors import take_in
from tests.worker.conftest import Kubernetes, eventually, put, read
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import KubernetesClient, WatchEvent
from worker.kubernetes.labels import INCARNATION, SANDBOX_ID
from worker.kubernetes.objects import Event, ObjectMeta, Pod
from worker.reconcile.diagnosis import MIN_PROBE_FAILURES, diagnose_event
from worker.reflectors.events import EventReflector
from worker.reflectors.pod_cache import PodCache

pytestmark = pytest.mark.anyio

ID, POD, UID = "abc", "sandbox-abc", "4bac641e-9787-412d-8533-464a73917551"
NO_MOUNT = 'MountVolume.SetUp failed for volume "user-data" : hostPath type check failed'
PROBE = "Startup probe failed: dial tcp 10.0.0.9:8080: connect: connection refused"


def event_of(reason: str, message: str = "told", *, pod: str = POD, uid: str = UID, **fields: Any) -> Event:
    """Return an Event as Kubernetes writes it."""
    document = {
        "metadata": {"name": f"{pod}.17f", "uid": "event"},
        "involvedObject": {"kind": "Pod", "name": pod, "uid": uid},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "source": {"component": "kubelet", "host": "node-1"},
        "reportingComponent": "kubelet",
        **fields,
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=Event)


def pod_of(sandbox_id: str, uid: str) -> Pod:
    labels = {SANDBOX_ID: sandbox_id, INCARNATION: "1-0a1b2c3d"}
    return Pod(metadata=ObjectMeta(name=object_name(sandbox_id, "1-0a1b2c3d"), uid=uid, labels=labels))


@pytest.fixture
def events(store: Store, cluster: KubernetesClient, settings: Settings, leading: Precondition) -> EventReflector:
    return EventReflector(PodCache(), store, cluster, settings, leading, batch_delay=0)


async def deliver(events: EventReflector, *heard: Event, kind: str = "ADDED") -> None:
    for each in heard:
        await take_in(events, [WatchEvent(kind, each)])


async def story(store: Store, sandbox_id: str = ID) -> list[tuple[str, str]]:
    """Return source and reason of each entry that is not the provisioner's own."""
    return [(e.source, e.reason) for e in await store.history(sandbox_id) if e.source != "provisioner"]


@pytest.fixture
async def waiting(store: Store) -> Sandbox:
    """Return a record whose Pod is known and not ready."""
    return await put(store, record_of(ID, pod_name=POD, pod_uid=UID, service_uid="service", url="http://h"))


# What is told


@pytest.mark.usefixtures("waiting")
async def test_events_of_a_pod_stand_in_the_history_with_their_source(store: Store, events: EventReflector):
    scheduler: dict[str, Any] = {
        "source": {},
        "reportingComponent": "default-scheduler",
        "count": None,
        "type": "Normal",
    }
    normal = {"type": "Normal"}
    await deliver(
        events,
        event_of("Scheduled", "Successfully assigned", **scheduler),
        event_of("Pulled", **normal),
        event_of("Started", source={"component": "kubelet"}, reportingComponent="", **normal),
        event_of("Odd", source={}, reportingComponent="", **normal),
    )
    assert await story(store) == [
        ("default-scheduler", "Scheduled"),
        ("kubelet", "Pulled"),
        ("kubelet", "Started"),
        ("kubernetes", "Odd"),
    ]
    (_, entry, *_) = await store.history(ID)
    assert (entry.at, entry.type, entry.message) == (store.now(), "Normal", "Successfully assigned")


async def test_event_of_cached_pod_needs_no_look_up(
    store: Store, cluster: KubernetesClient, settings: Settings, leading: Precondition, waiting: Sandbox
):
    """Trouble of a Pod of another incarnation does not change the record."""
    cache = PodCache()
    for uid, sandbox_id in ((UID, ID), ("earlier", ID), ("gone", "gone")):
        cache.put(pod_of(sandbox_id, uid), store.now())
    events = EventReflector(cache, store, cluster, settings, leading, batch_delay=0)
    await deliver(events, event_of("Pulled", pod="any"), event_of("FailedMount", NO_MOUNT, uid="earlier"))
    await deliver(events, event_of("Killing", uid="gone"))
    assert await story(store) == [("kubelet", "Pulled"), ("kubelet", "FailedMount")]
    assert await read(store, ID) == waiting
    assert await store.history("gone") == []


async def test_events_without_uid_go_to_the_pods_of_their_names(store: Store, events: EventReflector):
    await put(store, record_of(ID))
    await put(store, record_of("abd"))
    diagnose_event = [event_of("Pulled", uid=""), event_of("Created", uid="", pod="sandbox-abd")]
    await take_in(events, [WatchEvent("ADDED", each) for each in diagnose_event])
    assert await story(store) == [("kubelet", "Pulled")]
    assert await story(store, "abd") == [("kubelet", "Created")]


async def test_event_repeated_is_one_entry_and_writes_no_record(store: Store, events: EventReflector, waiting: Sandbox):
    await deliver(events, event_of("BackOff"), event_of("Pulling"))
    await deliver(events, event_of("BackOff", count=2), event_of("BackOff", count=3), kind="MODIFIED")
    assert await story(store) == [("kubelet", "Pulling"), ("kubelet", "BackOff")]
    assert await read(store, ID) == waiting


@pytest.mark.parametrize(
    ("heard", "kind"),
    [
        (event_of("Pulled", pod="sandbox-other"), "ADDED"),
        (event_of("Pulled", pod="another"), "ADDED"),
        (event_of("Pulled", pod="sandbox-abc-2"), "ADDED"),
        (event_of("Pulled", uid="another-pods"), "ADDED"),
        (event_of("Pulled", pod=""), "ADDED"),
        (event_of("Pulled"), "DELETED"),
    ],
    ids=[
        "another sandbox'",
        "no sandbox'",
        "another life's",
        "an earlier Pod's",
        "nobody's",
        "an event that is dropped",
    ],
)
async def test_event_of_another_pod_or_deleted_is_ignored(
    store: Store, events: EventReflector, waiting: Sandbox, heard: Event, kind: str
):
    await deliver(events, heard, kind=kind)
    assert await story(store) == []
    assert await read(store, ID) == waiting


@pytest.mark.parametrize("sandbox_id", ["abc", "abc-2"])
async def test_event_of_ambiguous_name_goes_to_the_sandbox_with_that_pod(
    store: Store, events: EventReflector, sandbox_id: str
):
    """`sandbox-abc-2` is the first incarnation of one id or the second of another."""
    first_of_one = record_of("abc-2", pod_uid=UID if sandbox_id == "abc-2" else "other")
    second_of_other = record_of("abc", generation=2, pod_uid=UID if sandbox_id == "abc" else "other")
    await put(store, first_of_one)
    await put(store, second_of_other)
    await deliver(events, event_of("Pulled", pod="sandbox-abc-2"))
    assert await story(store, sandbox_id) == [("kubelet", "Pulled")]
    assert await story(store, "abc" if sandbox_id == "abc-2" else "abc-2") == []


async def test_event_before_its_pod_is_matched_by_name(store: Store, events: EventReflector):
    await put(store, record_of(ID))
    await deliver(events, event_of("FailedScheduling"))
    assert await story(store) == [("kubelet", "FailedScheduling")]


# What it means for the sandbox

MEANS = [
    ("a volume cannot be mounted", event_of("FailedMount", NO_MOUNT), Reason.MOUNT_FAILED),
    ("a volume cannot be attached", event_of("FailedAttachVolume", NO_MOUNT), Reason.MOUNT_FAILED),
    ("a probe has failed for some time", event_of("Unhealthy", PROBE, count=MIN_PROBE_FAILURES), Reason.PROBE_FAILED),
    ("a probe fails and fails", event_of("Unhealthy", PROBE, count=300), Reason.PROBE_FAILED),
    ("a probe failed while it starts", event_of("Unhealthy", PROBE, count=MIN_PROBE_FAILURES - 1), None),
    ("a probe failed, and nobody counts", event_of("Unhealthy", PROBE, count=None), None),
    ("what the Pod shows itself", event_of("FailedScheduling", "0/1 nodes"), None),
    ("what is said of any Pod", event_of("Pulled"), None),
]


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(("heard", "reason"), [case[1:] for case in MEANS], ids=[case[0] for case in MEANS])
async def test_event_of_trouble_becomes_the_reason_and_fails_nothing(
    store: Store, events: EventReflector, heard: Event, reason: Reason | None
):
    """A Pod does not show this by itself."""
    await deliver(events, heard)
    record = await read(store, ID)
    assert (record.reason, record.message) == ((reason, heard.message) if reason else ("", ""))
    assert record.status is Status.PENDING
    cause = diagnose_event(heard)
    assert cause is None or not cause.is_permanent


UNTOUCHED = {
    "ready": {"status": Status.RUNNING, "ready": True},
    "being deleted": {"status": Status.TERMINATING},
    "failed": {"status": Status.FAILED, "reason": Reason.POD_FAILED},
    "stuck for what the Pod shows": {"reason": Reason.UNSCHEDULABLE, "message": "no room"},
}


@pytest.mark.parametrize("fields", UNTOUCHED.values(), ids=UNTOUCHED)
async def test_event_of_trouble_leaves_a_ready_ended_or_explained_record(
    store: Store, events: EventReflector, waiting: Sandbox, fields: dict[str, Any]
):
    record = await put(store, replace(waiting, **fields))
    await deliver(events, event_of("FailedMount", NO_MOUNT))
    assert await read(store, ID) == record
    assert await story(store) == [("kubelet", "FailedMount")]


async def test_event_of_unreadable_record_is_dropped_and_others_go_on(
    store: Store, events: EventReflector, waiting: Sandbox, valkey: ArqRedis
):
    await valkey.set(f"sandbox:{waiting.id}", b"{}")
    await put(store, record_of("other"))
    await deliver(events, event_of("Pulled"), event_of("Pulled", pod="sandbox-other"))
    assert await story(store, "other") == [("kubelet", "Pulled")]


@pytest.mark.usefixtures("waiting")
async def test_event_lease_lost_writes_nothing(
    store: Store, events: EventReflector, valkey: ArqRedis, leading: Precondition
):
    await valkey.set(leading.key, "another's")
    with pytest.raises(PreconditionFailed):
        await deliver(events, event_of("FailedMount", NO_MOUNT))
    assert await story(store) == []


async def test_event_of_terminating_sandbox_stands_in_the_history(
    store: Store, events: EventReflector, waiting: Sandbox
):
    await put(store, terminating(waiting))
    await deliver(events, event_of("Killing", "Stopping container sandbox", type="Normal"))
    assert await story(store) == [("kubelet", "Killing")]


# From the cluster


@asynccontextmanager
async def following(events: EventReflector, cluster: KubernetesClient) -> AsyncIterator[None]:
    """Watch Events from now on, while the context is open."""
    version = await events.relist()
    async with events.reconciling(), asyncio.TaskGroup() as group:
        watch = group.create_task(follow(events, cluster, version))
        yield
        watch.cancel()


async def follow(events: EventReflector, cluster: KubernetesClient, version: str) -> None:
    async for batch in cluster.watch(events.resource, version):
        for event in batch:
            events.on_event(event)


@pytest.mark.parametrize(
    ("trouble", "reason", "entry"),
    [
        ({"kind": "no-mount", "seconds": 0.05}, Reason.MOUNT_FAILED, "FailedMount"),
        ({"kind": "never-ready", "seconds": 0.05}, Reason.PROBE_FAILED, "Unhealthy"),
    ],
    ids=["no mount", "never ready"],
)
async def test_events_of_the_cluster_explain_a_pod_that_does_not_start(
    store: Store,
    events: EventReflector,
    provisioner: Provisioner,
    cluster: KubernetesClient,
    kubernetes: Kubernetes,
    trouble: dict[str, Any],
    reason: Reason,
    entry: str,
):
    await kubernetes.set_faults(trouble)
    record = await put(store, record_of(ID))
    async with following(events, cluster):
        await provisioner.provision(ID, record.incarnation, 1)

        async def is_said() -> bool:
            return (await read(store, ID)).reason == reason

        await eventually(is_said, f"the record says {reason}")
    assert ("default-scheduler", "Scheduled") in await story(store)
    assert ("kubelet", entry) in await story(store)
