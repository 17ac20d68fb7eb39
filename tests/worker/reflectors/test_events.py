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


def happening(reason: str, message: str = "told", *, pod: str = POD, uid: str = UID, **fields: Any) -> Event:
    """As Kubernetes writes it."""
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
def happenings(store: Store, cluster: KubernetesClient, settings: Settings, leading: Precondition) -> EventReflector:
    return EventReflector(PodCache(), store, cluster, settings, leading, batch_delay=0)


async def hear(happenings: EventReflector, *heard: Event, kind: str = "ADDED") -> None:
    for each in heard:
        await take_in(happenings, [WatchEvent(kind, each)])


async def story(store: Store, sandbox_id: str = ID) -> list[tuple[str, str]]:
    """Who said what, but for ours."""
    return [(e.source, e.reason) for e in await store.history(sandbox_id) if e.source != "provisioner"]


@pytest.fixture
async def waiting(store: Store) -> Sandbox:
    """A life whose Pod is seen, and waits."""
    return await put(store, record_of(ID, pod_name=POD, pod_uid=UID, service_uid="service", url="http://h"))


# What is told


@pytest.mark.usefixtures("waiting")
async def test_a_pods_story(store: Store, happenings: EventReflector):
    """What the scheduler and the kubelet say of a Pod stands in its sandbox' history, with who said it."""
    scheduler = {"source": {}, "reportingComponent": "default-scheduler", "count": None, "type": "Normal"}
    normal = {"type": "Normal"}
    await hear(
        happenings,
        happening("Scheduled", "Successfully assigned", **scheduler),
        happening("Pulled", **normal),
        happening("Started", source={"component": "kubelet"}, reportingComponent="", **normal),
        happening("Odd", source={}, reportingComponent="", **normal),
    )
    assert await story(store) == [
        ("default-scheduler", "Scheduled"),
        ("kubelet", "Pulled"),
        ("kubelet", "Started"),
        ("kubernetes", "Odd"),
    ]
    (_, entry, *_) = await store.history(ID)
    assert (entry.at, entry.type, entry.message) == (store.now(), "Normal", "Successfully assigned")


async def test_a_pod_that_is_known_by_its_uid(
    store: Store, cluster: KubernetesClient, settings: Settings, leading: Precondition, waiting: Sandbox
):
    """Whose story it is, is not looked for. Trouble of a Pod that is not the present life's is no trouble of it."""
    cache = PodCache()
    for uid, sandbox_id in ((UID, ID), ("earlier", ID), ("gone", "gone")):
        cache.put(pod_of(sandbox_id, uid), store.now())
    happenings = EventReflector(cache, store, cluster, settings, leading, batch_delay=0)
    await hear(happenings, happening("Pulled", pod="any"), happening("FailedMount", NO_MOUNT, uid="earlier"))
    await hear(happenings, happening("Killing", uid="gone"))
    assert await story(store) == [("kubelet", "Pulled"), ("kubelet", "FailedMount")]
    assert await read(store, ID) == waiting
    assert await store.history("gone") == []


async def test_pods_that_are_not_seen_yet(store: Store, happenings: EventReflector):
    """What is told at once of two of them, by name and without a uid, is told to each."""
    await put(store, record_of(ID))
    await put(store, record_of("abd"))
    diagnose_event = [happening("Pulled", uid=""), happening("Created", uid="", pod="sandbox-abd")]
    await take_in(happenings, [WatchEvent("ADDED", each) for each in diagnose_event])
    assert await story(store) == [("kubelet", "Pulled")]
    assert await story(store, "abd") == [("kubelet", "Created")]


async def test_what_is_told_again(store: Store, happenings: EventReflector, waiting: Sandbox):
    """An event that is counted up is one entry, the newest; what it says nothing new of writes no record."""
    await hear(happenings, happening("BackOff"), happening("Pulling"))
    await hear(happenings, happening("BackOff", count=2), happening("BackOff", count=3), kind="MODIFIED")
    assert await story(store) == [("kubelet", "Pulling"), ("kubelet", "BackOff")]
    assert await read(store, ID) == waiting


@pytest.mark.parametrize(
    ("heard", "kind"),
    [
        (happening("Pulled", pod="sandbox-other"), "ADDED"),
        (happening("Pulled", pod="another"), "ADDED"),
        (happening("Pulled", pod="sandbox-abc-2"), "ADDED"),
        (happening("Pulled", uid="another-pods"), "ADDED"),
        (happening("Pulled", pod=""), "ADDED"),
        (happening("Pulled"), "DELETED"),
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
async def test_what_is_not_about_it(
    store: Store, happenings: EventReflector, waiting: Sandbox, heard: Event, kind: str
):
    """What is said of other Pods is not told of this sandbox, nor that Kubernetes forgets what it said."""
    await hear(happenings, heard, kind=kind)
    assert await story(store) == []
    assert await read(store, ID) == waiting


@pytest.mark.parametrize("sandbox_id", ["abc", "abc-2"])
async def test_names_that_meet(store: Store, happenings: EventReflector, sandbox_id: str):
    """`sandbox-abc-2` is the first life of one id or the second of another: of whichever has that Pod."""
    first_of_one = record_of("abc-2", pod_uid=UID if sandbox_id == "abc-2" else "other")
    second_of_other = record_of("abc", generation=2, pod_uid=UID if sandbox_id == "abc" else "other")
    await put(store, first_of_one)
    await put(store, second_of_other)
    await hear(happenings, happening("Pulled", pod="sandbox-abc-2"))
    assert await story(store, sandbox_id) == [("kubelet", "Pulled")]
    assert await story(store, "abc" if sandbox_id == "abc-2" else "abc-2") == []


async def test_before_the_pod_was_seen(store: Store, happenings: EventReflector):
    """Events may come before the Pod itself was observed: the name says whose they are."""
    await put(store, record_of(ID))
    await hear(happenings, happening("FailedScheduling"))
    assert await story(store) == [("kubelet", "FailedScheduling")]


# What it means for the sandbox

MEANS = [
    ("a volume cannot be mounted", happening("FailedMount", NO_MOUNT), Reason.MOUNT_FAILED),
    ("a volume cannot be attached", happening("FailedAttachVolume", NO_MOUNT), Reason.MOUNT_FAILED),
    ("a probe has failed for some time", happening("Unhealthy", PROBE, count=MIN_PROBE_FAILURES), Reason.PROBE_FAILED),
    ("a probe fails and fails", happening("Unhealthy", PROBE, count=300), Reason.PROBE_FAILED),
    ("a probe failed while it starts", happening("Unhealthy", PROBE, count=MIN_PROBE_FAILURES - 1), None),
    ("a probe failed, and nobody counts", happening("Unhealthy", PROBE, count=None), None),
    ("what the Pod shows itself", happening("FailedScheduling", "0/1 nodes"), None),
    ("what is said of any Pod", happening("Pulled"), None),
]


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(("heard", "reason"), [case[1:] for case in MEANS], ids=[case[0] for case in MEANS])
async def test_reasons(store: Store, happenings: EventReflector, heard: Event, reason: Reason | None):
    """What no Pod shows by itself becomes the sandbox' reason, with Kubernetes' words; it is not failed by it."""
    await hear(happenings, heard)
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
async def test_what_it_does_not_touch(
    store: Store, happenings: EventReflector, waiting: Sandbox, fields: dict[str, Any]
):
    """What is well, over, or explained by its Pod, is told of and left as it is."""
    record = await put(store, replace(waiting, **fields))
    await hear(happenings, happening("FailedMount", NO_MOUNT))
    assert await read(store, ID) == record
    assert await story(store) == [("kubelet", "FailedMount")]


async def test_a_record_that_cannot_be_read(
    store: Store, happenings: EventReflector, waiting: Sandbox, valkey: ArqRedis
):
    """What is said of one that cannot be read is not heard, and stops nothing."""
    await valkey.set(f"sandbox:{waiting.id}", b"{}")
    await put(store, record_of("other"))
    await hear(happenings, happening("Pulled"), happening("Pulled", pod="sandbox-other"))
    assert await story(store, "other") == [("kubelet", "Pulled")]


@pytest.mark.usefixtures("waiting")
async def test_a_former_leader(store: Store, happenings: EventReflector, valkey: ArqRedis, leading: Precondition):
    """Whoever has lost the lease tells nothing."""
    await valkey.set(leading.key, "another's")
    with pytest.raises(PreconditionFailed):
        await hear(happenings, happening("FailedMount", NO_MOUNT))
    assert await story(store) == []


async def test_of_what_is_being_deleted(store: Store, happenings: EventReflector, waiting: Sandbox):
    """The end of a Pod is a part of its story."""
    await put(store, terminating(waiting))
    await hear(happenings, happening("Killing", "Stopping container sandbox", type="Normal"))
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
async def test_trouble_that_no_pod_shows(
    store: Store,
    happenings: EventReflector,
    provisioner: Provisioner,
    cluster: KubernetesClient,
    kubernetes: Kubernetes,
    trouble: dict[str, Any],
    reason: Reason,
    entry: str,
):
    """A volume that cannot be mounted, and a probe that never succeeds, are known from the events of a cluster."""
    await kubernetes.misbehave(trouble)
    record = await put(store, record_of(ID))
    async with following(happenings, cluster):
        await provisioner.provision(ID, record.incarnation, 1)

        async def is_said() -> bool:
            return (await read(store, ID)).reason == reason

        await eventually(is_said, f"the record says {reason}")
    assert ("default-scheduler", "Scheduled") in await story(store)
    assert ("kubelet", entry) in await story(store)
