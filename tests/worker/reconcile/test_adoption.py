from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.queue.job import Job, JobKind
from shared.sandbox.names import object_name, service_name
from shared.sandbox.record import Mount, Reason, Sandbox, Spec, Status
from shared.settings import Settings
from tests.support.records import CLUSTER, NOW, record_of, settings_of
from tests.worker.transcripts import pod_of
from worker import manifests
from worker.kubernetes.labels import RECORD
from worker.kubernetes.objects import Pod, Service
from worker.reconcile.adoption import adopt, is_record_lost, sandbox_of

UID = "4bac641e-9787-412d-8533-464a73917551"
OLDER_LIFE = "1-older-4bac641e"
LATER = NOW + 60
SETTINGS = settings_of(NODE_HOST="10.0.0.7", DEER_FLOW_HOST_BASE_DIR="/srv/deer")
CLUSTER_IP = settings_of(SANDBOX_SERVICE_TYPE="ClusterIP", K8S_NAMESPACE="agents")


def running(*, ready: bool = True) -> dict[str, Any]:
    status = "True" if ready else "False"
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2025-06-15T15:06:41Z"},
        {"type": "Ready", "status": status, "lastTransitionTime": "2025-06-15T15:06:43Z"},
    ]
    return {"phase": "Running", "conditions": conditions}


def made(record: Sandbox, status: dict[str, Any] | None = None, **metadata: Any) -> Pod:
    """The Pod that we make for a record, as Kubernetes shows it."""
    document = msgspec.to_builtins(manifests.pod(record, SETTINGS))
    document["metadata"] |= {"uid": UID, "creationTimestamp": "2025-06-15T15:06:40Z", **metadata}
    return pod_of({**document, "status": running() if status is None else status})


def older(sandbox_id: str = "abc", **metadata: Any) -> Pod:
    """A Pod as the older provisioner made it: neither life nor annotation."""
    labels = {"app": "deer-flow-sandbox", "sandbox-id": sandbox_id}
    named = {"name": f"sandbox-{sandbox_id}", "uid": UID, "labels": labels, "creationTimestamp": "2025-06-15T15:00:00Z"}
    return pod_of({"metadata": {**named, **metadata}, "spec": {"nodeName": "n"}, "status": running()})


def service(pod: Pod, *, owner: str = UID, node_port: int = 30123) -> Service:
    """Ours, of this Pod."""
    labels = {**pod.metadata.labels}
    metadata = {"name": f"{pod.metadata.name}-svc", "uid": "service", "labels": labels}
    owners = [{"uid": owner}] if owner else []
    document = {"metadata": {**metadata, "ownerReferences": owners}, "spec": {"ports": [{"nodePort": node_port}]}}
    return msgspec.json.decode(msgspec.json.encode(document), type=Service)


def taken(pod: Pod, of: Service | None, settings: Settings = SETTINGS) -> tuple[Sandbox, tuple[Job, ...]]:
    """The record that is made anew, and its jobs."""
    change = adopt(pod, of, settings, LATER)
    assert change.record is not None
    return change.record, change.jobs


# Whose Pod it is


def test_identity():
    """A Pod of ours is of the id and the life on its labels; one of the older provisioner's of a life of its own."""
    assert sandbox_of(made(record_of("abc", generation=3))) == ("abc", "3-0a1b2c3d")
    assert sandbox_of(older()) == ("abc", OLDER_LIFE)


STRANGE: dict[str, dict[str, Any]] = {
    "no id": {"name": "sandbox-", "labels": {}},
    "an id that is none": {"name": "sandbox-A_b", "labels": {"sandbox-id": "A_b"}},
    "an id that is too long": {"name": f"sandbox-{'a' * 41}", "labels": {"sandbox-id": "a" * 41}},
    "an id with an end of line": {"name": "sandbox-abc\n", "labels": {"sandbox-id": "abc\n"}},
    "another name": {"name": "sandbox-abd", "labels": {"sandbox-id": "abc"}},
    "a clone": {"name": "sandbox-abc-clone", "labels": {"sandbox-id": "abc"}},
    "a later life's name": {"name": "sandbox-abc-2", "labels": {"sandbox-id": "abc"}},
    "a first life's name": {
        "name": "sandbox-abc",
        "labels": {"sandbox-id": "abc", "provisioner.deer-flow/incarnation": "2-0a1b2c3d"},
    },
    **{
        f"the life {incarnation!r}": {
            "name": "sandbox-abc",
            "labels": {"sandbox-id": "abc", "provisioner.deer-flow/incarnation": incarnation},
        }
        for incarnation in (
            "1",
            "1-",
            "-a",
            "0-a",
            "x-a",
            "01-a",
            "1-a b",
            "1-A",
            "1-" + "a" * 17,
            "9" * 10 + "-a",
            "1-a\n",
        )
    },
}


@pytest.mark.parametrize("metadata", STRANGE.values(), ids=STRANGE)
def test_none_of_ours(metadata: dict[str, Any]):
    """What has our label, and does not look like a Pod that we would have made, is nobody's sandbox."""
    assert sandbox_of(pod_of({"metadata": {"uid": UID, **metadata}})) is None


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True), st.integers(1, 99_999_999))
def test_each_of_ours_is_known(sandbox_id: str, generation: int):
    """Whatever id and life it has, a Pod that we make is known again."""
    record = record_of(sandbox_id, generation=generation)
    assert sandbox_of(made(record)) == (sandbox_id, record.incarnation)


# The record made anew


def test_with_annotations():
    """All that the record said comes back: what was asked for, when, which life, where it is; its time is past."""
    record = record_of(
        "abc", generation=2, spec={"user_id": "ada", "thread_id": "t-1", "provision_lark_cli_broker": True}
    )
    pod = made(record)
    again, jobs = taken(pod, service(pod))
    assert (again.id, again.incarnation, again.cluster) == ("abc", record.incarnation, CLUSTER)
    assert (again.spec, again.created_at) == (record.spec, record.created_at)
    assert (again.status, again.ready, again.url) == (Status.RUNNING, True, "http://10.0.0.7:30123")
    assert (again.pod_name, again.pod_uid, again.service_uid) == ("sandbox-abc-2", UID, "service")
    assert (again.deadline, again.reason) == (None, Reason.NONE)
    assert jobs == ()


def test_timings_come_from_the_pod():
    """What the Pod remembers of its stages is taken over; when it was taken up, nobody knows any more."""
    record = record_of("abc")
    again, _ = taken(made(record), None)
    assert again.timings.queued is None
    assert (again.timings.scheduled, again.timings.ready) == (NOW + 1, NOW + 3)


MOUNTS = st.builds(
    Mount, st.sampled_from(["/srv/deer/a", "/srv/deer/ä b"]), st.just("/mnt/acp-workspace"), st.booleans()
)
SPECS = st.builds(
    Spec,
    user_id=st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
    thread_id=st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    extra_mounts=st.lists(MOUNTS, max_size=1).map(tuple),
)


@given(SPECS, st.floats(1, 4e9))
def test_nothing_of_what_was_asked_for_is_lost(spec: Spec, created_at: float):
    """Whatever was asked for, and whenever, the Pod remembers it."""
    record = msgspec.structs.replace(record_of("abc"), spec=spec, created_at=created_at)
    again, _ = taken(made(record), None)
    assert (again.spec, again.created_at) == (spec, created_at)


def test_without_annotations():
    """A Pod of the older provisioner gets the defaults, its own time, and a life by which it is known from then on."""
    pod = older()
    again, jobs = taken(pod, service(pod, owner=""))
    assert (again.incarnation, again.generation, again.spec) == (OLDER_LIFE, 1, Spec())
    assert again.created_at == NOW - 400
    assert (again.status, again.ready, again.url) == (Status.RUNNING, True, "http://10.0.0.7:30123")
    assert (object_name("abc", again.incarnation), service_name("abc", again.incarnation)) == (
        "sandbox-abc",
        "sandbox-abc-svc",
    )
    assert jobs == ()


GARBAGE = ["", "{", "[]", "null", '{"spec": 1}', '{"spec": {}, "created_at": "now"}', "\ud83d", "x" * 10_000]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:20])
def test_garbage_annotations(text: str):
    """What somebody wrote over our annotation is as if there were none: the Pod lives all the same."""
    pod = made(record_of("abc", spec={"user_id": "ada"}), annotations={RECORD: text.encode(errors="replace").decode()})
    again, _ = taken(pod, service(pod))
    assert (again.incarnation, again.spec, again.created_at) == ("1-0a1b2c3d", Spec(), NOW)
    assert again.is_provisioned


@pytest.mark.parametrize("owner", ["another Pod's", ""])
def test_a_service_of_another_pod(owner: str):
    """A Service of this name that is not this Pod's is not its own: a job makes one."""
    pod = made(record_of("abc"))
    again, jobs = taken(pod, service(pod, owner=owner))
    assert (again.is_provisioned, again.url) == (False, "")
    assert jobs == (Job.of(JobKind.PROVISION, again),)


@pytest.mark.parametrize("pod", [made(record_of("abc")), older()], ids=["ours", "the older provisioner's"])
def test_without_a_service(pod: Pod):
    """A Pod that nobody can reach is adopted, runs, and gets a Service by a job; it is due again without progress."""
    again, jobs = taken(pod, None)
    assert (again.status, again.ready, again.url, again.is_provisioned) == (Status.RUNNING, True, "", False)
    assert jobs == (Job.of(JobKind.PROVISION, again),)
    assert again.due_at is not None


def test_what_was_never_ready():
    """A Pod that is not ready has its time from now on, in which it has to be."""
    pod = made(record_of("abc"), {"phase": "Pending"})
    again, _ = taken(pod, service(pod))
    assert (again.status, again.ready) == (Status.PENDING, False)
    assert again.deadline == LATER + SETTINGS.provision_timeout_seconds


def test_what_has_ended():
    """A Pod that failed while Redis had lost it is a failed sandbox, which can be read for its retention; no Service
    is made for it, and the sweep removes it when that is over."""
    pod = made(record_of("abc"), {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
    again, jobs = taken(pod, None)
    assert (again.status, again.reason, again.message) == (Status.FAILED, Reason.EVICTED, "low on memory")
    assert again.deadline == LATER + SETTINGS.failed_retention_seconds
    assert jobs == ()


def test_cluster_ip():
    """With ClusterIP the URL is the Service's name, which is known before there is one."""
    pod = made(record_of("abc", generation=2))
    url = "http://sandbox-abc-2-svc.agents.svc.cluster.local:8080"
    assert taken(pod, service(pod), CLUSTER_IP)[0].url == url
    without, jobs = taken(pod, None, CLUSTER_IP)
    assert (without.url, without.is_provisioned, len(jobs)) == (url, False, 1)


# Whether a record is lost

WAITS = record_of("abc", generation=2)
HAS_POD = record_of("abc", generation=2, pod_uid=UID)
DYING = record_of("abc", generation=2, pod_uid=UID, status=Status.TERMINATING)
LOST = [
    ("no record", None, "2-ffffffff", True, True),
    ("the id was asked for again, in an emptied Redis", WAITS, "2-ffffffff", True, False),
    ("the record's own Pod had this name", HAS_POD, "2-ffffffff", True, True),
    ("being deleted", DYING, "2-ffffffff", False, False),
    ("an earlier life's Pod", HAS_POD, "1-ffffffff", False, False),
    ("an earlier life's Pod, waited for none", WAITS, "1-ffffffff", False, False),
    ("a later life's Pod: Redis went back", HAS_POD, "3-ffffffff", True, True),
    ("a later life's Pod, while the earlier one goes", DYING, "3-ffffffff", True, True),
    ("many lives later", WAITS, "10-ffffffff", True, True),
]


@pytest.mark.parametrize(
    ("record", "incarnation", "emptied", "complete"), [case[1:] for case in LOST], ids=[case[0] for case in LOST]
)
def test_is_lost(record: Sandbox | None, incarnation: str, emptied: bool, complete: bool):
    """Whether a living Pod's record is lost: when Redis may have been emptied, and when all records are known."""
    assert is_record_lost(record, incarnation, is_complete=False) is emptied
    assert is_record_lost(record, incarnation, is_complete=True) is complete
