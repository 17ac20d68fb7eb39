from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.record import ALLOWED_TRANSITIONS, TERMINAL_STATUSES, Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, failed, provisioned, terminating
from shared.store.update import Update
from tests.support.records import NOW, of_status, record_of
from tests.worker.transcripts import pod_life, stuck_pod
from worker.kubernetes.objects import STUCK_SECONDS, Condition, ObjectMeta, Pod, PodSpec, PodStatus
from worker.reconcile.diagnosis import Cause
from worker.reconcile.pod_status import apply_event, apply_pod, apply_pod_gone, should_write, to_update

UID = "4bac641e-9787-412d-8533-464a73917551"
"""The Pod's of the transcripts."""
LATER = NOW + 60


def provisioned_record() -> Sandbox:
    return provisioned(record_of("life"), ProvisionedObjects("life", UID, "service", "http://node:30001"), now=NOW)


def a_pod(
    phase: str = "Running", *, ready: bool = True, dying: bool = False, reason: str = "", message: str = ""
) -> Pod:
    condition = Condition(type="Ready", status="True" if ready else "False")
    return Pod(
        metadata=ObjectMeta(
            name="life", uid=UID, deletion_timestamp=datetime.fromtimestamp(NOW + 9_000, tz=UTC) if dying else None
        ),
        spec=PodSpec(node_name="node-1"),
        status=PodStatus(phase=phase, reason=reason, message=message, conditions=(condition,)),
    )


class Step(NamedTuple):
    what: str
    status: Status
    ready: bool


PENDING, RUNNING = Status.PENDING, Status.RUNNING
LIFE = [
    Step("added", PENDING, ready=False),
    Step("scheduled", PENDING, ready=False),
    Step("containers are being created", PENDING, ready=False),
    Step("its network is there", PENDING, ready=False),
    Step("its container runs", RUNNING, ready=False),
    Step("ready", RUNNING, ready=True),
    Step("being deleted", RUNNING, ready=False),
    Step("told again", RUNNING, ready=False),
    Step("dying as phase Failed", RUNNING, ready=False),
    Step("its grace is over", RUNNING, ready=False),
]


def test_a_pods_life_step_by_step():
    """Status and readiness follow the Pod; that it dies as phase Failed is not a failure."""
    events = pod_life()
    assert [event.type for event in events] == ["ADDED", *["MODIFIED"] * 9, "DELETED"]
    record = provisioned_record()
    for event, step in zip(events[:-1], LIFE, strict=True):
        record = apply_pod(record, event.pod, now=NOW)
        assert (record.status, record.ready) == (step.status, step.ready), step.what
        assert record.reason == Reason.NONE, step.what
    gone = apply_pod_gone(record, record.incarnation, UID)
    assert gone is not None
    assert (gone.status, gone.reason, gone.ready) == (Status.FAILED, Reason.POD_LOST, False)


def test_a_pods_life_while_it_is_being_deleted_by_us():
    """A record being ended stays Terminating, whatever its Pod still goes through, and is forgotten with it."""
    record = terminating(provisioned_record())
    for event in pod_life():
        assert apply_pod(record, event.pod, now=LATER) is record
    assert apply_pod_gone(record, record.incarnation, UID) is None


@pytest.mark.parametrize(
    ("how", "status", "reason", "says"),
    [
        ("badimage", Status.FAILED, Reason.IMAGE_PULL_FAILED, "docker.io/local/absent:1: not found"),
        ("nomount", PENDING, Reason.NONE, ""),
        ("nopvc", PENDING, Reason.CLAIM_MISSING, 'persistentvolumeclaim "absent" not found'),
        ("toobig", PENDING, Reason.UNSCHEDULABLE, "Insufficient cpu"),
        ("crash", RUNNING, Reason.CRASH_LOOP, "exit code 3"),
        ("oom", RUNNING, Reason.OUT_OF_MEMORY, "memory limit"),
    ],
)
def test_a_pod_that_is_stuck(how: str, status: Status, reason: Reason, says: str):
    """A Pod that gets nowhere keeps Kubernetes' phase and says why; what cannot mend itself has failed at once."""
    record = apply_pod(provisioned_record(), stuck_pod(how), now=NOW)
    assert (record.status, record.ready, record.reason) == (status, False, reason)
    assert says in record.message


def test_a_container_that_dies_again_and_again_fails_what_was_never_ready():
    """Three restarts are no accident; but a sandbox that was ready once is left to recover."""
    crash = stuck_pod("crash")
    status = msgspec.structs.replace(crash.status.container_statuses[0], restart_count=3)
    pod = msgspec.structs.replace(crash, status=msgspec.structs.replace(crash.status, container_statuses=(status,)))
    assert apply_pod(provisioned_record(), pod, now=NOW, deadline=NOW + 600).status is Status.FAILED
    was_ready = apply_pod(provisioned_record(), a_pod(), now=NOW)
    assert (was_ready.ready, apply_pod(was_ready, pod, now=NOW).status) == (True, RUNNING)
    assert apply_pod(was_ready, pod, now=NOW).reason == Reason.CRASH_LOOP


def test_what_was_wrong_is_forgotten_when_it_is_well_again():
    """A sandbox that recovers carries no cause."""
    stuck = apply_pod(provisioned_record(), stuck_pod("toobig"), now=NOW)
    well = apply_pod(stuck, a_pod(), now=NOW)
    assert (well.status, well.ready, well.reason, well.message) == (RUNNING, True, Reason.NONE, "")


def test_timings_are_of_the_first_time():
    """Each stage's time is when it was first seen; what comes after does not move it."""
    record, now, times = provisioned_record(), NOW, {}
    for event, step in zip(pod_life()[:-1], LIFE, strict=True):
        now += 1
        record = apply_pod(record, event.pod, now=now)
        times[step.what] = now
    assert record.timings.scheduled == times["scheduled"]
    assert record.timings.running == times["its container runs"]
    assert record.timings.ready == times["ready"]


def test_readiness_flaps_and_status_does_not():
    """A running Pod whose readiness comes and goes stays Running."""
    record = provisioned_record()
    seen = []
    for ready in (True, False, True):
        record = apply_pod(record, a_pod(ready=ready), now=NOW)
        seen.append((record.status, record.ready))
    assert seen == [(RUNNING, True), (RUNNING, False), (RUNNING, True)]


@pytest.mark.parametrize(
    ("reason", "message", "cause", "expected"),
    [
        ("Evicted", "The node was low on resource: memory.", Reason.EVICTED, "The node was low on resource: memory."),
        ("DeadlineExceeded", "", Reason.POD_FAILED, "DeadlineExceeded"),
    ],
)
def test_a_pod_that_failed_says_why(reason: str, message: str, cause: Reason, expected: str):
    """A Pod that failed while nobody deleted it ends its life, with Kubernetes' words for it."""
    record = apply_pod(provisioned_record(), a_pod("Failed", ready=False, reason=reason, message=message), now=NOW)
    assert (record.status, record.reason, record.ready) == (Status.FAILED, cause, False)
    assert expected in record.message


def test_a_pod_that_failed_without_a_cause_still_says_something():
    """The message is never empty when a life has failed."""
    assert apply_pod(provisioned_record(), a_pod("Failed", ready=False), now=NOW).message


def test_trouble_is_over_once_the_pod_goes_on():
    """A reason that stood in the way of a Pending sandbox goes when it runs."""
    troubled = replace(provisioned_record(), reason=Reason.QUOTA_EXCEEDED, message="exceeded quota")
    record = apply_pod(troubled, a_pod(), now=NOW)
    assert (record.reason, record.message) == (Reason.NONE, "")


# What only events tell

MOUNT = Cause(Reason.MOUNT_FAILED, "no such volume")
PROBE = Cause(Reason.PROBE_FAILED, "connection refused")
WAITING = a_pod("Pending", ready=False)
NOT_READY = a_pod(ready=False)
STUCK = stuck_pod("toobig")
PERSISTS = [
    ("no volume, and it waits", PENDING, MOUNT, WAITING, Reason.MOUNT_FAILED),
    ("no volume, and then it runs", PENDING, MOUNT, NOT_READY, Reason.NONE),
    ("no volume, and then it is ready", PENDING, MOUNT, a_pod(), Reason.NONE),
    ("no volume, and no node", PENDING, MOUNT, STUCK, Reason.UNSCHEDULABLE),
    ("a probe fails, and it runs", RUNNING, PROBE, NOT_READY, Reason.PROBE_FAILED),
    ("a probe fails, and then it is ready", RUNNING, PROBE, a_pod(), Reason.NONE),
    ("a probe fails, and it crashes", RUNNING, PROBE, stuck_pod("crash"), Reason.CRASH_LOOP),
    ("a probe fails, and it is taken away", RUNNING, PROBE, a_pod("Running", dying=True), Reason.PROBE_FAILED),
]


@pytest.mark.parametrize(
    ("status", "why", "pod", "reason"), [case[1:] for case in PERSISTS], ids=[case[0] for case in PERSISTS]
)
def test_what_was_told_stays_said(status: Status, why: Cause, pod: Pod, reason: Reason):
    """What the Pod does not show is said until it has got over it, or shows something more telling."""
    told = apply_event(replace(provisioned_record(), status=status), UID, why)
    assert told.reason == why.reason
    once = apply_pod(told, pod, now=NOW)
    assert once.reason == reason
    assert bool(once.message) is bool(once.reason)
    assert apply_pod(once, pod, now=LATER) == once


def test_what_provisioning_said_is_not_the_pods_to_unsay():
    """While its Service cannot be made, a Pod that is well does not hide why there is no URL."""
    record = replace(record_of("life"), reason=Reason.NODE_PORTS_EXHAUSTED, message="range is full")
    seen = apply_pod(record, a_pod(), now=NOW)
    assert (seen.reason, seen.message) == (Reason.NODE_PORTS_EXHAUSTED, "range is full")


WARNED = [
    ("waits", {}, True),
    ("its Pod was not seen yet", {"pod_uid": ""}, True),
    ("was told of something else", {"reason": Reason.PROBE_FAILED, "message": "m"}, True),
    ("shows what is wrong itself", {"reason": Reason.UNSCHEDULABLE, "message": "m"}, False),
    ("is ready", {"status": RUNNING, "ready": True}, False),
    ("has another Pod", {"pod_uid": "another-pods"}, False),
    ("has failed", {"status": Status.FAILED}, False),
    ("is being deleted", {"status": Status.TERMINATING}, False),
]


@pytest.mark.parametrize(("fields", "is_said"), [case[1:] for case in WARNED], ids=[case[0] for case in WARNED])
def test_warned(fields: dict[str, Any], is_said: bool):
    """What is told of a Pod is said where it explains something, and changes nothing but that."""
    record = replace(provisioned_record(), **fields)
    after = apply_event(record, UID, MOUNT)
    assert after == (replace(record, reason=MOUNT.reason, message=MOUNT.message) if is_said else record)


# What is written of it


def test_nothing_new_is_not_written():
    """Only differences become writes."""
    record = provisioned_record()
    assert to_update(record, replace(record)) is None


def test_a_life_that_ends_is_cleaned_up():
    """What ends leaves a Pod or a Service behind: a job of the next attempt removes them. Once."""
    record = provisioned_record()
    over = failed(record, Reason.POD_LOST, "gone")
    change = to_update(record, over)
    assert change is not None
    assert change.record == replace(over, attempt=record.attempt + 1)
    assert change.jobs == (Job.of(JobKind.TERMINATE, change.record),)
    later = to_update(over, replace(over, message="gone, indeed"))
    assert later is not None
    assert later.jobs == ()


def test_what_was_wanted_gone_is_forgotten():
    """The record of what was being deleted goes with its Pod, and needs no job."""
    change = to_update(terminating(provisioned_record()), None)
    assert change is not None
    assert change == Update(None)


def test_until():
    """What is ready has no deadline any more, what failed is kept for a while, what waits keeps its own."""
    record = replace(provisioned_record(), deadline=NOW + 300)
    assert apply_pod(record, WAITING, now=NOW, deadline=LATER).deadline == NOW + 300
    assert apply_pod(record, a_pod(), now=NOW, deadline=LATER).deadline is None
    assert apply_pod(record, a_pod("Failed", ready=False), now=NOW, deadline=LATER).deadline == LATER
    assert apply_pod(record, a_pod("Succeeded", ready=False), now=NOW, deadline=LATER).deadline == LATER


@pytest.mark.parametrize("phase", ["", "Weird"])
def test_a_phase_that_kubernetes_does_not_have(phase: str):
    """What cannot be understood is Unknown, as Kubernetes has it for a node that does not report."""
    assert apply_pod(of_status(RUNNING), a_pod(phase), now=NOW).status is Status.UNKNOWN


def test_a_phase_never_goes_back_to_pending():
    """A Pod of a Running record that is seen Pending, by a late event, does not undo it."""
    assert apply_pod(of_status(RUNNING), a_pod("Pending", ready=False), now=NOW).status is RUNNING


pods = st.builds(
    a_pod,
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "", "Weird"]),
    ready=st.booleans(),
    dying=st.booleans(),
    reason=st.sampled_from(["", "Evicted"]),
    message=st.sampled_from(["", "The node was low on resource: memory."]),
)
reached = st.builds(
    of_status,
    st.sampled_from(Status),
    ready=st.booleans(),
    reason=st.sampled_from(Reason),
    message=st.sampled_from(["", "something"]),
    pod_uid=st.sampled_from(["", UID]),
)


@given(reached, pods)
def test_moves_are_allowed_ones(record: Sandbox, pod: Pod):
    """No Pod, however it looks, moves a record where its status may not go, nor makes anything ready but a Running."""
    new = apply_pod(record, pod, now=LATER)
    assert new.status in ALLOWED_TRANSITIONS[record.status]
    assert new == record or not new.ready or new.status is RUNNING


@given(reached, pods)
def test_nothing_new_is_the_same_record(record: Sandbox, pod: Pod):
    """The same Pod seen once more, at any later time, changes nothing."""
    once = apply_pod(record, pod, now=NOW)
    assert apply_pod(once, pod, now=LATER) == once


@given(reached, pods)
def test_what_is_over_or_being_ended_stays_as_it_is(record: Sandbox, pod: Pod):
    """A life that is over, or being ended, is not changed by any Pod."""
    assume(not record.is_active)
    assert apply_pod(record, pod, now=LATER) is record


@given(st.sampled_from(sorted(set(Status) - TERMINAL_STATUSES)), st.lists(pods, max_size=8))
def test_a_dying_pod_never_fails_a_life(status: Status, seen: list[Pod]):
    """However a Pod that is being deleted ends, its phase is not taken over."""
    record = of_status(status)
    for pod in seen:
        record = apply_pod(record, replace(pod, metadata=a_pod(dying=True).metadata), now=NOW)
    assert record.status is status


def test_a_pod_that_should_be_gone_since_long_is_lost():
    """Its node is lost, say: nobody can use it, and it would be said to run for ever."""
    pod = a_pod(dying=True)
    due = pod.metadata.deletion_timestamp
    assert due is not None
    record = of_status(RUNNING)
    assert apply_pod(record, pod, now=due.timestamp() + STUCK_SECONDS).status is RUNNING
    lost = apply_pod(record, pod, now=due.timestamp() + STUCK_SECONDS + 1, deadline=7.0)
    assert (lost.status, lost.reason, lost.ready, lost.deadline) == (Status.FAILED, Reason.POD_LOST, False, 7.0)


def test_what_its_job_will_say():
    """While that works on it, that there is a Pod, on a node, is no news. All else is, and so is that, later."""
    record, on_a_node = record_of(), replace(WAITING, spec=PodSpec(node_name="node-1"))
    seen = apply_pod(record, on_a_node, now=NOW)
    assert (seen.pod_uid, seen.timings.scheduled) == (UID, NOW)
    assert not should_write(record, seen)
    assert not should_write(record, record)
    assert should_write(record, apply_pod(record, a_pod(), now=NOW))
    assert should_write(record, replace(seen, reason=Reason.UNSCHEDULABLE))
    later = apply_pod(provisioned_record(), on_a_node, now=LATER, scheduled=NOW)
    assert later.timings.scheduled == NOW
    assert should_write(provisioned_record(), later)


OTHER = "2-ffffffff"


@pytest.mark.parametrize(
    ("status", "uid"), [(PENDING, UID), (RUNNING, UID), (Status.UNKNOWN, UID), (PENDING, "")], ids=str
)
def test_a_wanted_pod_that_vanished_is_lost(status: Status, uid: str):
    """A life whose Pod was taken away from outside is over, and says so; also when its job had not said yet which."""
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
    ids=["another life's", "another Pod's", "another life's, ending", "succeeded", "failed before"],
)
def test_a_pod_that_vanished_and_does_not_matter(record: Sandbox, incarnation: str, uid: str):
    """A Pod of another life, or one that the record never had, cannot be lost; what is over stays as it ended."""
    assert apply_pod_gone(record, incarnation, uid) is record
