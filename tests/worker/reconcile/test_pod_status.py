from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.record import ALLOWED_TRANSITIONS, TERMINAL_STATUSES, Reason, Sandbox, Status, Timings
from shared.sandbox.transitions import ProvisionedObjects, failed, provisioned, terminating
from shared.store.update import Update
from tests.support.records import NOW, of_status, record_of
from tests.worker.transcripts import pod_life, stuck_pod
from worker.kubernetes.objects import STUCK_SECONDS, Condition, ObjectMeta, Pod, PodSpec, PodStatus
from worker.reconcile.diagnosis import Cause
from worker.reconcile.pod_status import apply_event, apply_pod, apply_pod_gone, should_write, to_update

UID = "4bac641e-9787-412d-8533-464a73917551"
"""The uid of the Pod in the transcripts."""
LATER = NOW + 60


def provisioned_record() -> Sandbox:
    return provisioned(record_of("life"), ProvisionedObjects("life", UID, "service", "http://node:30001"), now=NOW)


def pod_with(
    phase: str = "Running", *, ready: bool = True, terminating: bool = False, reason: str = "", message: str = ""
) -> Pod:
    condition = Condition(type="Ready", status="True" if ready else "False")
    deletion_timestamp = datetime.fromtimestamp(NOW + 9_000, tz=UTC) if terminating else None
    return Pod(
        metadata=ObjectMeta(name="life", uid=UID, deletion_timestamp=deletion_timestamp),
        spec=PodSpec(node_name="node-1"),
        status=PodStatus(phase=phase, reason=reason, message=message, conditions=(condition,)),
    )


class Step(NamedTuple):
    """A change of the Pod in the transcript, and what the record then shows."""

    name: str
    status: Status
    ready: bool


PENDING, RUNNING = Status.PENDING, Status.RUNNING
STEPS = [
    Step("added", PENDING, ready=False),
    Step("scheduled", PENDING, ready=False),
    Step("containers are created", PENDING, ready=False),
    Step("network is ready", PENDING, ready=False),
    Step("container runs", RUNNING, ready=False),
    Step("ready", RUNNING, ready=True),
    Step("deleted", RUNNING, ready=False),
    Step("modified", RUNNING, ready=False),
    Step("terminates in phase Failed", RUNNING, ready=False),
    Step("grace period is over", RUNNING, ready=False),
]


def test_recorded_pod_sets_status_and_readiness_step_by_step():
    """The terminating Pod's phase Failed is no failure. The Pod's end is one, because no client deleted the sandbox."""
    events = pod_life()
    assert [event.type for event in events] == ["ADDED", *["MODIFIED"] * 9, "DELETED"]
    record = provisioned_record()
    for event, step in zip(events[:-1], STEPS, strict=True):
        record = apply_pod(record, event.pod, now=NOW)
        assert (record.status, record.ready) == (step.status, step.ready), step.name
        assert record.reason == Reason.NONE, step.name
    gone = apply_pod_gone(record, record.incarnation, UID)
    assert gone is not None
    assert (gone.status, gone.reason, gone.ready) == (Status.FAILED, Reason.POD_LOST, False)


def test_recorded_pod_leaves_terminating_record_unchanged_until_it_is_gone():
    record = terminating(provisioned_record())
    for event in pod_life():
        assert apply_pod(record, event.pod, now=LATER) is record
    assert apply_pod_gone(record, record.incarnation, UID) is None


@pytest.mark.parametrize(
    ("cause", "status", "reason", "text"),
    [
        ("badimage", Status.FAILED, Reason.IMAGE_PULL_FAILED, "docker.io/local/absent:1: not found"),
        ("nomount", PENDING, Reason.NONE, ""),
        ("nopvc", PENDING, Reason.CLAIM_MISSING, 'persistentvolumeclaim "absent" not found'),
        ("toobig", PENDING, Reason.UNSCHEDULABLE, "Insufficient cpu"),
        ("crash", RUNNING, Reason.CRASH_LOOP, "exit code 3"),
        ("oom", RUNNING, Reason.OUT_OF_MEMORY, "memory limit"),
    ],
)
def test_stuck_pod_gives_reason_and_fails_only_if_permanent(cause: str, status: Status, reason: Reason, text: str):
    record = apply_pod(provisioned_record(), stuck_pod(cause), now=NOW)
    assert (record.status, record.ready, record.reason) == (status, False, reason)
    assert text in record.message


def test_crash_loop_fails_sandbox_only_if_it_was_never_ready():
    """A sandbox that was ready once can recover."""
    crash = stuck_pod("crash")
    status = msgspec.structs.replace(crash.status.container_statuses[0], restart_count=3)
    pod = msgspec.structs.replace(crash, status=msgspec.structs.replace(crash.status, container_statuses=(status,)))
    assert apply_pod(provisioned_record(), pod, now=NOW, deadline=NOW + 600).status is Status.FAILED
    was_ready = apply_pod(provisioned_record(), pod_with(), now=NOW)
    assert (was_ready.ready, apply_pod(was_ready, pod, now=NOW).status) == (True, RUNNING)
    assert apply_pod(was_ready, pod, now=NOW).reason == Reason.CRASH_LOOP


def test_recovered_pod_clears_reason():
    stuck = apply_pod(provisioned_record(), stuck_pod("toobig"), now=NOW)
    recovered = apply_pod(stuck, pod_with(), now=NOW)
    assert (recovered.status, recovered.ready, recovered.reason, recovered.message) == (RUNNING, True, Reason.NONE, "")


def test_timings_keep_first_time_of_each_stage():
    record, now, times = provisioned_record(), NOW, {}
    for event, step in zip(pod_life()[:-1], STEPS, strict=True):
        now += 1
        record = apply_pod(record, event.pod, now=now)
        times[step.name] = now
    assert record.timings.scheduled == times["scheduled"]
    assert record.timings.running == times["container runs"]
    assert record.timings.ready == times["ready"]


def test_changing_readiness_keeps_status_running():
    record = provisioned_record()
    states = []
    for ready in (True, False, True):
        record = apply_pod(record, pod_with(ready=ready), now=NOW)
        states.append((record.status, record.ready))
    assert states == [(RUNNING, True), (RUNNING, False), (RUNNING, True)]


@pytest.mark.parametrize(
    ("reason", "message", "cause", "expected"),
    [
        ("Evicted", "The node was low on resource: memory.", Reason.EVICTED, "The node was low on resource: memory."),
        ("DeadlineExceeded", "", Reason.POD_FAILED, "DeadlineExceeded"),
    ],
)
def test_failed_pod_fails_sandbox_with_kubernetes_message(reason: str, message: str, cause: Reason, expected: str):
    record = apply_pod(provisioned_record(), pod_with("Failed", ready=False, reason=reason, message=message), now=NOW)
    assert (record.status, record.reason, record.ready) == (Status.FAILED, cause, False)
    assert expected in record.message


def test_failed_pod_without_cause_gives_a_message():
    assert apply_pod(provisioned_record(), pod_with("Failed", ready=False), now=NOW).message


def test_running_pod_clears_reason_of_pending():
    pending = replace(provisioned_record(), reason=Reason.QUOTA_EXCEEDED, message="exceeded quota")
    record = apply_pod(pending, pod_with(), now=NOW)
    assert (record.reason, record.message) == (Reason.NONE, "")


# Causes that only Events show

MOUNT = Cause(Reason.MOUNT_FAILED, "no such volume")
PROBE = Cause(Reason.PROBE_FAILED, "connection refused")
WAITING = pod_with("Pending", ready=False)
NOT_READY = pod_with(ready=False)
STUCK = stuck_pod("toobig")
EVENT_THEN_POD = [
    ("mount failed, still Pending", PENDING, MOUNT, WAITING, Reason.MOUNT_FAILED),
    ("mount failed, then Running", PENDING, MOUNT, NOT_READY, Reason.NONE),
    ("mount failed, then ready", PENDING, MOUNT, pod_with(), Reason.NONE),
    ("mount failed, then unschedulable", PENDING, MOUNT, STUCK, Reason.UNSCHEDULABLE),
    ("probe failed, still Running", RUNNING, PROBE, NOT_READY, Reason.PROBE_FAILED),
    ("probe failed, then ready", RUNNING, PROBE, pod_with(), Reason.NONE),
    ("probe failed, then crashes", RUNNING, PROBE, stuck_pod("crash"), Reason.CRASH_LOOP),
    ("probe failed, then deleted", RUNNING, PROBE, pod_with("Running", terminating=True), Reason.PROBE_FAILED),
]


@pytest.mark.parametrize(
    ("status", "cause", "pod", "reason"),
    [case[1:] for case in EVENT_THEN_POD],
    ids=[case[0] for case in EVENT_THEN_POD],
)
def test_reason_of_event_stays_until_pod_progresses_or_shows_a_cause(
    status: Status, cause: Cause, pod: Pod, reason: Reason
):
    record = apply_event(replace(provisioned_record(), status=status), UID, cause)
    assert record.reason == cause.reason
    new = apply_pod(record, pod, now=NOW)
    assert new.reason == reason
    assert bool(new.message) is bool(new.reason)
    assert apply_pod(new, pod, now=LATER) == new


def test_reason_of_provisioning_stays_while_pod_is_ready():
    """The Service cannot be created, and the reason explains why the ready sandbox has no URL."""
    record = replace(record_of("life"), reason=Reason.NODE_PORTS_EXHAUSTED, message="range is full")
    new = apply_pod(record, pod_with(), now=NOW)
    assert (new.reason, new.message) == (Reason.NODE_PORTS_EXHAUSTED, "range is full")


RECORDS_OF_EVENT = [
    ("pending", {}, True),
    ("Pod not seen yet", {"pod_uid": ""}, True),
    ("reason of another Event", {"reason": Reason.PROBE_FAILED, "message": "m"}, True),
    ("reason that the Pod shows", {"reason": Reason.UNSCHEDULABLE, "message": "m"}, False),
    ("ready", {"status": RUNNING, "ready": True}, False),
    ("another Pod", {"pod_uid": "another-pods"}, False),
    ("failed", {"status": Status.FAILED}, False),
    ("terminating", {"status": Status.TERMINATING}, False),
]


@pytest.mark.parametrize(
    ("fields", "is_applied"), [case[1:] for case in RECORDS_OF_EVENT], ids=[case[0] for case in RECORDS_OF_EVENT]
)
def test_event_sets_reason_only_if_pod_shows_no_cause_and_is_not_ready(fields: dict[str, Any], is_applied: bool):
    record = replace(provisioned_record(), **fields)
    expected = replace(record, reason=MOUNT.reason, message=MOUNT.message) if is_applied else record
    assert apply_event(record, UID, MOUNT) == expected


# Updates


def test_equal_record_gives_no_update():
    record = provisioned_record()
    assert to_update(record, replace(record)) is None


def test_ended_incarnation_enqueues_one_terminate_job():
    """A Pod or a Service can be left."""
    record = provisioned_record()
    ended = failed(record, Reason.POD_LOST, "gone")
    update = to_update(record, ended)
    assert update is not None
    assert update.record == replace(ended, attempt=record.attempt + 1)
    assert update.jobs == (Job.of(JobKind.TERMINATE, update.record),)
    second = to_update(ended, replace(ended, message="another message"))
    assert second is not None
    assert second.jobs == ()


def test_deleted_record_of_generation_1_enqueues_no_job():
    assert to_update(terminating(provisioned_record()), None) == Update(None)


def test_deadline_ends_when_ready_and_is_retention_when_ended():
    record = replace(provisioned_record(), deadline=NOW + 300)
    assert apply_pod(record, WAITING, now=NOW, deadline=LATER).deadline == NOW + 300
    assert apply_pod(record, pod_with(), now=NOW, deadline=LATER).deadline is None
    assert apply_pod(record, pod_with("Failed", ready=False), now=NOW, deadline=LATER).deadline == LATER
    assert apply_pod(record, pod_with("Succeeded", ready=False), now=NOW, deadline=LATER).deadline == LATER


@pytest.mark.parametrize("phase", ["", "Weird"])
def test_unexpected_phase_is_unknown(phase: str):
    """Kubernetes uses Unknown for a Pod whose node does not report."""
    assert apply_pod(of_status(RUNNING), pod_with(phase), now=NOW).status is Status.UNKNOWN


def test_running_record_never_returns_to_pending():
    """A late watch event can show the Pod Pending."""
    assert apply_pod(of_status(RUNNING), pod_with("Pending", ready=False), now=NOW).status is RUNNING


pods = st.builds(
    pod_with,
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "", "Weird"]),
    ready=st.booleans(),
    terminating=st.booleans(),
    reason=st.sampled_from(["", "Evicted"]),
    message=st.sampled_from(["", "The node was low on resource: memory."]),
)
records = st.builds(
    of_status,
    st.sampled_from(Status),
    ready=st.booleans(),
    reason=st.sampled_from(Reason),
    message=st.sampled_from(["", "something"]),
    pod_uid=st.sampled_from(["", UID]),
)


@given(records, pods)
def test_every_pod_causes_only_allowed_transitions(record: Sandbox, pod: Pod):
    """Only a Running record becomes ready."""
    new = apply_pod(record, pod, now=LATER)
    assert new.status in ALLOWED_TRANSITIONS[record.status]
    assert new == record or not new.ready or new.status is RUNNING


@given(records, pods)
def test_same_pod_applied_again_changes_nothing(record: Sandbox, pod: Pod):
    new = apply_pod(record, pod, now=NOW)
    assert apply_pod(new, pod, now=LATER) == new


@given(records, pods)
def test_inactive_record_is_not_changed_by_any_pod(record: Sandbox, pod: Pod):
    assume(not record.is_active)
    assert apply_pod(record, pod, now=LATER) is record


@given(st.sampled_from(sorted(set(Status) - TERMINAL_STATUSES)), st.lists(pods, max_size=8))
def test_terminating_pod_never_changes_status(status: Status, terminating_pods: list[Pod]):
    record = of_status(status)
    for pod in terminating_pods:
        record = apply_pod(record, replace(pod, metadata=pod_with(terminating=True).metadata), now=NOW)
    assert record.status is status


def test_pod_with_overdue_deletion_fails_sandbox():
    """If the node is lost, the Pod stays in the cluster, and its record would stay Running."""
    pod = pod_with(terminating=True)
    due = pod.metadata.deletion_timestamp
    assert due is not None
    record = of_status(RUNNING)
    assert apply_pod(record, pod, now=due.timestamp() + STUCK_SECONDS).status is RUNNING
    lost = apply_pod(record, pod, now=due.timestamp() + STUCK_SECONDS + 1, deadline=7.0)
    assert (lost.status, lost.reason, lost.ready, lost.deadline) == (Status.FAILED, Reason.POD_LOST, False, 7.0)


def test_scheduled_pod_is_written_only_with_other_news_while_job_runs():
    record, scheduled = record_of(), replace(WAITING, spec=PodSpec(node_name="node-1"))
    new = apply_pod(record, scheduled, now=NOW)
    assert (new.pod_uid, new.timings.scheduled) == (UID, NOW)
    assert not should_write(record, new)
    assert not should_write(record, record)
    assert should_write(record, apply_pod(record, pod_with(), now=NOW))
    assert should_write(record, replace(new, reason=Reason.UNSCHEDULABLE))
    later = apply_pod(provisioned_record(), scheduled, now=LATER, first_seen=Timings(scheduled=NOW))
    assert later.timings.scheduled == NOW
    assert should_write(provisioned_record(), later)


# Pods that are gone

OTHER = "2-ffffffff"


@pytest.mark.parametrize(
    ("status", "uid"), [(PENDING, UID), (RUNNING, UID), (Status.UNKNOWN, UID), (PENDING, "")], ids=str
)
def test_pod_gone_fails_active_sandbox(status: Status, uid: str):
    """The uid is empty if the provision job has not written it yet."""
    record = of_status(status, pod_uid=uid, ready=status is RUNNING)
    gone = apply_pod_gone(record, record.incarnation, UID)
    assert gone is not None
    assert (gone.status, gone.reason, gone.ready) == (Status.FAILED, Reason.POD_LOST, False)
    assert gone.message


@pytest.mark.parametrize(
    ("record", "incarnation", "uid"),
    [
        (of_status(RUNNING, pod_uid=UID), OTHER, UID),
        (of_status(RUNNING, pod_uid=UID), record_of().incarnation, "another-pods"),
        (of_status(Status.TERMINATING, pod_uid=UID), OTHER, UID),
        (of_status(Status.SUCCEEDED, pod_uid=UID), record_of().incarnation, UID),
        (failed(of_status(RUNNING, pod_uid=UID), Reason.POD_FAILED, "as it was"), record_of().incarnation, UID),
    ],
    ids=["another incarnation", "another Pod", "another incarnation, terminating", "succeeded", "failed"],
)
def test_pod_gone_of_other_incarnation_or_ended_sandbox_changes_nothing(record: Sandbox, incarnation: str, uid: str):
    assert apply_pod_gone(record, incarnation, uid) is record
