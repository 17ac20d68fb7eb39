from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.sandbox import names, transitions, urls
from shared.sandbox import record as sandbox
from shared.sandbox.record import ALLOWED_TRANSITIONS, STALLED_SECONDS, TERMINAL_STATUSES, Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects
from shared.settings import read_settings

NOW = 1_750_000_000.0
LATER = NOW + 7
SPEC = Spec(user_id="ada", thread_id="t-1")
FIRST = transitions.new_record("abc", SPEC, cluster="default", now=NOW)
PROVISIONED = transitions.provisioned(
    FIRST, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=LATER
)

DNS_LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


def test_new_record_is_pending_with_defaults():
    assert (
        Sandbox(
            id="abc",
            generation=1,
            token=FIRST.token,
            cluster="default",
            spec=SPEC,
            created_at=NOW,
            updated_at=NOW,
            last_used_at=NOW,
        )
        == FIRST
    )
    assert FIRST.status is Status.PENDING
    assert not FIRST.is_provisioned


def test_records_of_one_generation_differ_in_their_incarnation():
    """After Redis lost its data, generations count from 1 again."""
    second = transitions.new_record("abc", SPEC, cluster="default", now=NOW)
    assert second.generation == FIRST.generation
    assert second.incarnation != FIRST.incarnation


def test_new_incarnation_counts_up_and_keeps_only_id_and_cluster():
    ended = transitions.failed(replace(PROVISIONED, cluster="east", attempt=4, revision=9), Reason.POD_LOST, "gone")
    spec = Spec(user_id="bob")
    successor = transitions.new_incarnation(ended, spec, now=LATER)
    assert successor.generation == 2
    assert successor == replace(
        transitions.new_record("abc", spec, cluster="east", now=LATER, generation=2), token=successor.token
    )


def test_provisioned_record_has_objects_and_time_and_no_reason():
    record = transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "wait")
    updated = transitions.provisioned(
        record, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=LATER
    )
    assert updated.is_provisioned
    assert (updated.pod_name, updated.pod_uid, updated.service_uid, updated.url) == (
        "sandbox-abc",
        "u-1",
        "service",
        "http://h:1",
    )
    assert (updated.reason, updated.message, updated.timings.created) == (Reason.NONE, "", LATER)
    assert (updated.status, updated.timings.queued) == (Status.PENDING, None)


def test_second_provisioning_keeps_the_time_of_the_first():
    """A lost Service is replaced."""
    updated = transitions.provisioned(
        transitions.without_service(PROVISIONED),
        ProvisionedObjects("sandbox-abc", "u-1", "other", "http://h:2"),
        now=LATER + 1,
    )
    assert (updated.url, updated.service_uid, updated.timings.created) == ("http://h:2", "other", LATER)


def test_record_without_service_has_no_url_and_keeps_the_rest():
    record = transitions.without_service(PROVISIONED)
    assert (record.is_provisioned, record.url) == (False, "")
    assert replace(record, url=PROVISIONED.url, service_uid=PROVISIONED.service_uid) == PROVISIONED


def test_started_twice_keeps_the_first_time():
    record = transitions.started(transitions.started(FIRST, LATER), LATER + 1)
    assert record == replace(FIRST, timings=sandbox.Timings(queued=LATER))


@pytest.mark.parametrize(
    ("incarnation", "generation", "is_older"),
    [("1-a", 2, True), ("2-a", 2, False), ("3-a", 2, False), ("9-a", 10, True), ("", 2, False), ("x-1", 2, False)],
)
def test_incarnations_are_compared_as_numbers(incarnation: str, generation: int, is_older: bool):
    """A text that is no incarnation is not older."""
    assert names.is_older_incarnation(incarnation, replace(FIRST, generation=generation)) is is_older


def test_failed_record_is_not_ready_and_has_the_cause():
    record = transitions.failed(replace(PROVISIONED, status=Status.RUNNING, ready=True), Reason.POD_LOST, "gone")
    assert (record.status, record.ready, record.reason, record.message) == (
        *(Status.FAILED, False, Reason.POD_LOST, "gone"),
    )
    assert not record.is_active


def test_terminating_record_is_inactive_and_the_same_incarnation():
    record = transitions.terminating(replace(PROVISIONED, status=Status.RUNNING, ready=True))
    assert (record.status, record.ready, record.is_active) == (Status.TERMINATING, False, False)
    assert record.incarnation == PROVISIONED.incarnation


def test_reason_of_a_retry_does_not_change_the_status():
    record = transitions.with_reason(FIRST, Reason.CLUSTER_UNAVAILABLE, "no answer")
    assert (record.status, record.reason, record.message) == (
        *(Status.PENDING, Reason.CLUSTER_UNAVAILABLE, "no answer"),
    )


def test_next_attempt_counts_within_the_incarnation():
    record = transitions.next_attempt(transitions.next_attempt(FIRST))
    assert (record.attempt, record.incarnation) == (3, FIRST.incarnation)


@dataclass
class Due:
    case: str
    record: Sandbox
    at: float | None


DUE = [
    Due("waits for its Pod", FIRST, NOW + STALLED_SECONDS),
    Due("waits for its Pod with a URL", replace(FIRST, url="http://h:1"), NOW + STALLED_SECONDS),
    Due("is provisioned", PROVISIONED, None),
    Due("is provisioned with a deadline", replace(PROVISIONED, deadline=LATER), LATER),
    Due(
        "has lost its Service",
        transitions.without_service(replace(PROVISIONED, status=Status.RUNNING)),
        NOW + STALLED_SECONDS,
    ),
    Due(
        "has lost its Service after the deadline",
        transitions.without_service(replace(PROVISIONED, deadline=1.0)),
        NOW + 15,
    ),
    Due("is provisioned and expires", replace(PROVISIONED, lifetime=7.0), LATER),
    Due("runs", replace(PROVISIONED, status=Status.RUNNING), None),
    Due("runs and is not provisioned", replace(FIRST, status=Status.RUNNING), NOW + STALLED_SECONDS),
    Due("terminates", transitions.terminating(PROVISIONED), NOW + STALLED_SECONDS),
    Due(
        "terminates and would expire",
        transitions.terminating(replace(PROVISIONED, lifetime=7.0)),
        NOW + STALLED_SECONDS,
    ),
    Due("has failed", transitions.failed(FIRST, Reason.INVALID, "no"), None),
    Due(
        "has ended with a retention", replace(PROVISIONED, status=Status.SUCCEEDED, deadline=LATER, lifetime=1.0), LATER
    ),
]


@pytest.mark.parametrize("due", DUE, ids=lambda due: due.case)
def test_record_is_due_when_stalled_at_its_deadline_or_at_its_expiry(due: Due):
    assert due.record.due_at == due.at


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 15), (4, 15), (5, 15), (6, 30), (7, 60), (8, 120), (9, 240), (10, 240), (5000, 240)]
)
@pytest.mark.parametrize(
    "record", [FIRST, transitions.terminating(PROVISIONED)], ids=["waits for its Pod", "terminates"]
)
def test_stalled_record_is_due_less_often_after_many_attempts(record: Sandbox, attempt: int, seconds: float):
    """The record is never given up."""
    assert replace(record, attempt=attempt).due_at == NOW + seconds


@pytest.mark.parametrize(
    ("incarnation", "pod", "service"),
    [
        ("1-0a1b2c3d", "sandbox-abc", "sandbox-abc-svc"),
        ("2-0a1b2c3d", "sandbox-abc-2", "sandbox-abc-2-svc"),
        ("12-0a1b2c3d", "sandbox-abc-12", "sandbox-abc-12-svc"),
    ],
)
def test_name_has_the_generation_from_the_second_incarnation_on(incarnation: str, pod: str, service: str):
    """The first incarnation has DeerFlow's own names."""
    assert (names.object_name("abc", incarnation), names.service_name("abc", incarnation)) == (pod, service)


@given(sandbox_id=DNS_LABELS, generation=st.integers(1, 10**9))
def test_names_of_any_id_and_generation_fit_in_a_dns_label_and_differ(sandbox_id: str, generation: int):
    record = transitions.new_record(sandbox_id, SPEC, cluster="default", now=NOW, generation=generation)
    successor = transitions.new_incarnation(record, SPEC, now=NOW)
    service = names.service_name(sandbox_id, record.incarnation)
    assert len(service) <= 63
    assert names.object_name(sandbox_id, record.incarnation) != names.object_name(sandbox_id, successor.incarnation)


@pytest.mark.parametrize("status", Status)
def test_allowed_transitions_never_lead_back_from_an_end(status: Status):
    """Each status can stay and can become Terminating."""
    allowed = ALLOWED_TRANSITIONS[status]
    assert {status, Status.TERMINATING} <= allowed
    assert (Status.PENDING in allowed) == (status is Status.PENDING)
    if status in TERMINAL_STATUSES or status is Status.TERMINATING:
        assert allowed == {status, Status.TERMINATING}
    else:
        assert allowed >= TERMINAL_STATUSES


@pytest.mark.parametrize(
    ("incarnation", "url"),
    [
        ("1-x", "http://sandbox-abc-svc.agents.svc.cluster.local:9000"),
        ("3-x", "http://sandbox-abc-3-svc.agents.svc.cluster.local:9000"),
    ],
)
def test_cluster_ip_url_is_known_before_the_service_exists(incarnation: str, url: str):
    """The URL is a name of this incarnation in the cluster's DNS."""
    settings = read_settings(
        {"SANDBOX_SERVICE_TYPE": "ClusterIP", "K8S_NAMESPACE": "agents", "SANDBOX_CONTAINER_PORT": "9000"}
    )
    generation, _, token = incarnation.partition("-")
    record = replace(FIRST, generation=int(generation), token=token)
    assert urls.with_url(record, settings).url == url
    assert urls.service_url(record, None, settings) == url


def test_node_port_url_is_known_once_the_service_has_a_port():
    settings = read_settings({"NODE_HOST": "10.0.0.7"})
    assert urls.with_url(FIRST, settings) == FIRST
    assert urls.service_url(FIRST, 30123, settings) == "http://10.0.0.7:30123"
    assert urls.service_url(FIRST, None, settings) == ""


def test_url_of_a_node_port_on_ipv6_has_brackets():
    settings = read_settings({"NODE_HOST": "fd00::7"})
    assert urls.service_url(FIRST, 30123, settings) == "http://[fd00::7]:30123"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.UNSCHEDULABLE, Reason.UNSCHEDULABLE),
        (Reason.MOUNT_FAILED, Reason.MOUNT_FAILED),
        (Reason.QUOTA_EXCEEDED, Reason.NONE),
        (Reason.CLUSTER_UNAVAILABLE, Reason.NONE),
    ],
)
def test_provisioned_clears_only_the_reasons_of_its_own_job(reason: Reason, expected: Reason):
    """The Pod shows the others, and only the Pod may clear them."""
    record = replace(FIRST, reason=reason, message="why")
    objects = ProvisionedObjects("sandbox-abc", "pod", "service", "http://h:1", 30123)
    after = transitions.provisioned(record, objects, now=NOW)
    assert (after.reason, after.message) == (expected, "why" if expected else "")
    assert after.node_port == 30123
