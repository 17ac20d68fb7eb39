from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.names import object_name, service_name
from shared.sandbox.record import Mount, Reason, Sandbox, Spec, Status
from shared.settings import Settings
from tests.support.records import CLUSTER, NOW, record_of, settings_of
from tests.worker.transcripts import pod_of
from worker import manifests
from worker.kubernetes.labels import RECORD
from worker.kubernetes.objects import Pod, Service
from worker.reconcile.adoption import (
    CLOCK_TOLERANCE_SECONDS,
    EARLIEST_SECONDS,
    adopt,
    is_record_lost,
    sandbox_of,
)

UID = "4bac641e-9787-412d-8533-464a73917551"
LEGACY_INCARNATION = "1-legacy-4bac641e"
LATER = NOW + 60
SETTINGS = settings_of(NODE_HOST="10.0.0.7", DEER_FLOW_HOST_BASE_DIR="/srv/deer")
CLUSTER_IP = settings_of(SANDBOX_SERVICE_TYPE="ClusterIP", K8S_NAMESPACE="agents")


def running_status() -> dict[str, Any]:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2025-06-15T15:06:41Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2025-06-15T15:06:43Z"},
    ]
    return {"phase": "Running", "conditions": conditions}


def pod_for(record: Sandbox, status: dict[str, Any] | None = None, **metadata: Any) -> Pod:
    """Return the Pod that the worker creates for a record, as Kubernetes shows it."""
    document = msgspec.to_builtins(manifests.pod(record, SETTINGS))
    document["metadata"] |= {"uid": UID, "creationTimestamp": "2025-06-15T15:06:40Z", **metadata}
    return pod_of({**document, "status": running_status() if status is None else status})


def legacy_pod() -> Pod:
    """Return a Pod of the legacy provisioner, without incarnation label and annotation."""
    labels = {"app": "deer-flow-sandbox", "sandbox-id": "abc"}
    metadata = {"name": "sandbox-abc", "uid": UID, "labels": labels, "creationTimestamp": "2025-06-15T15:00:00Z"}
    return pod_of({"metadata": metadata, "spec": {"nodeName": "n"}, "status": running_status()})


def service_for(pod: Pod, *, owner: str = UID) -> Service:
    """Return a Service with the Pod's labels. An empty `owner` means no owner."""
    metadata = {"name": f"{pod.metadata.name}-svc", "uid": "service", "labels": {**pod.metadata.labels}}
    owners = [{"uid": owner}] if owner else []
    document = {"metadata": {**metadata, "ownerReferences": owners}, "spec": {"ports": [{"nodePort": 30123}]}}
    return msgspec.json.decode(msgspec.json.encode(document), type=Service)


def adopted(pod: Pod, service: Service | None, settings: Settings = SETTINGS) -> tuple[Sandbox, tuple[Job, ...]]:
    """Return the record of an adoption, and its jobs."""
    update = adopt(pod, service, settings, LATER)
    assert update.record is not None
    return update.record, update.jobs


# The sandbox of a Pod


def test_sandbox_of_pod_is_on_labels_and_of_legacy_pod_from_uid():
    assert sandbox_of(pod_for(record_of("abc", generation=3))) == ("abc", "3-0a1b2c3d")
    assert sandbox_of(legacy_pod()) == ("abc", LEGACY_INCARNATION)


FOREIGN: dict[str, dict[str, Any]] = {
    "no id": {"name": "sandbox-", "labels": {}},
    "an invalid id": {"name": "sandbox-A_b", "labels": {"sandbox-id": "A_b"}},
    "an id too long": {"name": f"sandbox-{'a' * 41}", "labels": {"sandbox-id": "a" * 41}},
    "an id with an end of line": {"name": "sandbox-abc\n", "labels": {"sandbox-id": "abc\n"}},
    "another name": {"name": "sandbox-abd", "labels": {"sandbox-id": "abc"}},
    "a clone": {"name": "sandbox-abc-clone", "labels": {"sandbox-id": "abc"}},
    "the name of generation 2": {"name": "sandbox-abc-2", "labels": {"sandbox-id": "abc"}},
    "the name of generation 1": {
        "name": "sandbox-abc",
        "labels": {"sandbox-id": "abc", "provisioner.deer-flow/incarnation": "2-0a1b2c3d"},
    },
    **{
        f"the incarnation {incarnation!r}": {
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


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
def test_pod_with_unexpected_names_has_no_sandbox(metadata: dict[str, Any]):
    """Any user of the cluster can create a Pod with the label. Such a Pod is not adopted."""
    assert sandbox_of(pod_of({"metadata": {"uid": UID, **metadata}})) is None


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True), st.integers(1, 99_999_999))
def test_sandbox_of_each_created_pod_is_found(sandbox_id: str, generation: int):
    record = record_of(sandbox_id, generation=generation)
    assert sandbox_of(pod_for(record)) == (sandbox_id, record.incarnation)


# The adopted record


def test_adoption_restores_spec_incarnation_status_and_url():
    """The provisioning deadline is over, because the Pod is ready."""
    lost = record_of(
        "abc", generation=2, spec={"user_id": "ada", "thread_id": "t-1", "provision_lark_cli_broker": True}
    )
    pod = pod_for(lost)
    record, jobs = adopted(pod, service_for(pod))
    assert (record.id, record.incarnation, record.cluster) == ("abc", lost.incarnation, CLUSTER)
    assert (record.spec, record.created_at) == (lost.spec, lost.created_at)
    assert (record.status, record.ready, record.url) == (Status.RUNNING, True, "http://10.0.0.7:30123")
    assert (record.pod_name, record.pod_uid, record.service_uid) == ("sandbox-abc-2", UID, "service")
    assert (record.deadline, record.reason) == (None, Reason.NONE)
    assert jobs == ()


def test_adoption_takes_timings_from_pod_conditions():
    """The time at which a worker started the job is lost."""
    record, _ = adopted(pod_for(record_of("abc")), None)
    assert record.timings.queued is None
    assert (record.timings.scheduled, record.timings.ready) == (NOW + 1, NOW + 3)


MOUNTS = st.builds(
    Mount, st.sampled_from(["/srv/deer/a", "/srv/deer/ä b"]), st.just("/mnt/acp-workspace"), st.booleans()
)
SPECS = st.builds(
    Spec,
    user_id=st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
    thread_id=st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    extra_mounts=st.lists(MOUNTS, max_size=1).map(tuple),
)


@given(SPECS, st.floats(EARLIEST_SECONDS, NOW + CLOCK_TOLERANCE_SECONDS))
def test_adoption_restores_every_spec_and_creation_time(spec: Spec, created_at: float):
    lost = msgspec.structs.replace(record_of("abc"), spec=spec, created_at=created_at)
    record, _ = adopted(pod_for(lost), None)
    assert (record.spec, record.created_at) == (spec, created_at)


@given(
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda time: not EARLIEST_SECONDS <= time <= NOW + 86_400)
)
def test_adoption_with_impossible_time_uses_creation_time_of_the_pod(created_at: float):
    """The sandbox would expire at once, or its record could not be read."""
    lost = msgspec.structs.replace(record_of("abc", spec={"user_id": "ada"}), created_at=created_at)
    record, _ = adopted(pod_for(lost), None)
    assert (record.spec.user_id, record.created_at) == ("ada", NOW)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Sandbox) == record


def test_pod_of_impossible_time_does_not_replace_a_record():
    """Otherwise whoever may write an annotation could replace the record of a sandbox in use."""
    record = record_of("abc", generation=2, now=NOW + 60, pod_uid="another")
    pod = pod_for(msgspec.structs.replace(record_of("abc"), created_at=9e9))
    assert not is_record_lost(record, pod, "1-0a1b2c3d", has_synced=True)


TIMES = ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z"]


@pytest.mark.parametrize("time", TIMES)
def test_adoption_with_impossible_times_of_conditions_gives_a_readable_record(time: str):
    """Whoever may write a Pod's status can write other times there."""
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": time} for kind in ("PodScheduled", "Ready")]
    record, _ = adopted(pod_for(record_of("abc"), {"phase": "Running", "conditions": conditions}), None)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Sandbox) == record
    assert adopted(pod_for(record_of("abc"), creationTimestamp=time), None)[0].created_at >= 0


UNUSABLE_SPECS = [
    {"user_id": ""},
    {"user_id": "a/b"},
    {"thread_id": "x" * 65},
    {"lifetime_seconds": 10**12},
    {"idle_timeout_seconds": -1},
]


@pytest.mark.parametrize("spec", UNUSABLE_SPECS, ids=str)
def test_adoption_with_spec_that_no_request_can_have_uses_default_spec(spec: dict[str, Any]):
    annotation = msgspec.json.encode({"spec": spec, "created_at": NOW}).decode()
    record, _ = adopted(pod_for(record_of("abc"), annotations={RECORD: annotation}), None)
    assert (record.spec, record.created_at) == (Spec(), NOW)


def test_adoption_of_legacy_pod_uses_default_spec_and_creation_time():
    """Names made from the legacy incarnation are those of the legacy objects."""
    pod = legacy_pod()
    record, jobs = adopted(pod, service_for(pod, owner=""))
    assert (record.incarnation, record.generation, record.spec) == (LEGACY_INCARNATION, 1, Spec())
    assert record.created_at == NOW - 400
    assert (record.status, record.ready, record.url) == (Status.RUNNING, True, "http://10.0.0.7:30123")
    assert (object_name("abc", record.incarnation), service_name("abc", record.incarnation)) == (
        "sandbox-abc",
        "sandbox-abc-svc",
    )
    assert jobs == ()


GARBAGE = ["", "{", "[]", "null", '{"spec": 1}', '{"spec": {}, "created_at": "now"}', "\ud83d", "x" * 10_000]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:20])
def test_adoption_with_unreadable_annotation_uses_default_spec(text: str):
    """A person may have overwritten the annotation. The Pod is adopted all the same."""
    annotations = {RECORD: text.encode(errors="replace").decode()}
    pod = pod_for(record_of("abc", spec={"user_id": "ada"}), annotations=annotations)
    record, _ = adopted(pod, service_for(pod))
    assert (record.incarnation, record.spec, record.created_at) == ("1-0a1b2c3d", Spec(), NOW)
    assert record.is_provisioned


@pytest.mark.parametrize("owner", ["another Pod's", ""])
def test_adoption_with_service_of_another_pod_enqueues_provision_job(owner: str):
    pod = pod_for(record_of("abc"))
    record, jobs = adopted(pod, service_for(pod, owner=owner))
    assert (record.is_provisioned, record.url) == (False, "")
    assert jobs == (Job.of(JobKind.PROVISION, record),)


@pytest.mark.parametrize("pod", [pod_for(record_of("abc")), legacy_pod()], ids=["current", "legacy"])
def test_adoption_without_service_enqueues_provision_job(pod: Pod):
    """The record is due later. If the job is lost, the sweep enqueues another one."""
    record, jobs = adopted(pod, None)
    assert (record.status, record.ready, record.url, record.is_provisioned) == (Status.RUNNING, True, "", False)
    assert jobs == (Job.of(JobKind.PROVISION, record),)
    assert record.due_at is not None


def test_adoption_of_pod_that_is_not_ready_sets_provisioning_deadline():
    pod = pod_for(record_of("abc"), {"phase": "Pending"})
    record, _ = adopted(pod, service_for(pod))
    assert (record.status, record.ready) == (Status.PENDING, False)
    assert record.deadline == LATER + SETTINGS.provision_timeout_seconds


def test_adoption_of_failed_pod_gives_failed_record_without_job():
    """The record can be read for its retention. No Service is created for the Pod."""
    pod = pod_for(record_of("abc"), {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
    record, jobs = adopted(pod, None)
    assert (record.status, record.reason, record.message) == (Status.FAILED, Reason.EVICTED, "low on memory")
    assert record.deadline == LATER + SETTINGS.failed_retention_seconds
    assert jobs == ()


def test_adoption_with_cluster_ip_has_url_before_service_exists():
    """The URL contains only the Service's name."""
    pod = pod_for(record_of("abc", generation=2))
    url = "http://sandbox-abc-2-svc.agents.svc.cluster.local:8080"
    assert adopted(pod, service_for(pod), CLUSTER_IP)[0].url == url
    record, jobs = adopted(pod, None, CLUSTER_IP)
    assert (record.url, record.is_provisioned, len(jobs)) == (url, False, 1)


# Lost records

WITHOUT_POD = record_of("abc", generation=2)
WITH_POD = record_of("abc", generation=2, pod_uid=UID)
TERMINATING = record_of("abc", generation=2, pod_uid=UID, status=Status.TERMINATING)
EARLIER, NEWER = -10, 10
LOST = [
    ("no record", None, 2, EARLIER, True, True),
    ("newer Pod, record with Pod", WITH_POD, 3, NEWER, True, True),
    ("newer Pod, record terminating", TERMINATING, 3, NEWER, True, True),
    ("newer Pod that counts from 1 again", WITH_POD, 1, NEWER, True, True),
    ("newer Pod of the same generation, record terminating", TERMINATING, 2, NEWER, True, True),
    ("newer Pod, generation of two digits", WITHOUT_POD, 10, NEWER, True, True),
    ("earlier Pod of the same generation, record without Pod", WITHOUT_POD, 2, EARLIER, True, False),
    ("earlier Pod of the same generation, record with Pod", WITH_POD, 2, EARLIER, True, True),
    ("earlier Pod of the same generation, record terminating", TERMINATING, 2, EARLIER, False, False),
    ("earlier Pod of an earlier generation, record with Pod", WITH_POD, 1, EARLIER, False, False),
    ("earlier Pod of an earlier generation, record without Pod", WITHOUT_POD, 1, EARLIER, False, False),
    ("earlier Pod of a later generation, record without Pod", WITHOUT_POD, 3, EARLIER, True, False),
    ("earlier Pod of a later generation, record with Pod", WITH_POD, 3, EARLIER, False, False),
]


@pytest.mark.parametrize(
    ("record", "generation", "requested", "before_sync", "after_sync"),
    [case[1:] for case in LOST],
    ids=[case[0] for case in LOST],
)
def test_record_is_lost_if_pod_is_newer_or_has_the_name_of_the_records_pod(
    record: Sandbox | None, generation: int, requested: int, before_sync: bool, after_sync: bool
):
    """Before the first sync, Redis may have been emptied, and a record without Pod may be a new request of the id."""
    pod_record = replace(record_of("abc", generation=generation), token="ffffffff", created_at=NOW + requested)
    pod = pod_for(pod_record)
    assert is_record_lost(record, pod, pod_record.incarnation, has_synced=False) is before_sync
    assert is_record_lost(record, pod, pod_record.incarnation, has_synced=True) is after_sync


def test_record_of_legacy_pod_is_lost_if_kubernetes_created_the_pod_later():
    """A legacy Pod has no annotation. Kubernetes' own time stands in."""
    pod = legacy_pod()
    created = pod.metadata.creation_timestamp
    assert created is not None
    for seconds, is_lost in ((-5, True), (5, False)):
        record = replace(WITH_POD, created_at=created.timestamp() + seconds)
        assert is_record_lost(record, pod, LEGACY_INCARNATION, has_synced=True) is is_lost
