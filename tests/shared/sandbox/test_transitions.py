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
MADE = transitions.provisioned(FIRST, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=LATER)

DNS_LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


def test_accepted():
    """A new life is wanted, and nothing else is known of it."""
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


def test_no_two_lives_are_alike():
    """Even when counting begins at 1 again, because Redis forgot, a life has a name that no other has."""
    again = transitions.new_record("abc", SPEC, cluster="default", now=NOW)
    assert again.generation == FIRST.generation
    assert again.incarnation != FIRST.incarnation


def test_next_life():
    """The next life of an id counts one up, and takes nothing over but the id and its cluster."""
    ended = transitions.failed(replace(MADE, cluster="east", attempt=4, revision=9), Reason.POD_LOST, "gone")
    spec = Spec(user_id="bob")
    following = transitions.new_incarnation(ended, spec, now=LATER)
    assert following.generation == 2
    assert following == replace(
        transitions.new_record("abc", spec, cluster="east", now=LATER, generation=2), token=following.token
    )


def test_provisioned():
    """A life that is made says where, when, and that nothing is in its way any more."""
    record = transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "wait")
    made = transitions.provisioned(record, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=LATER)
    assert made.is_provisioned
    assert (made.pod_name, made.pod_uid, made.service_uid, made.url) == ("sandbox-abc", "u-1", "service", "http://h:1")
    assert (made.reason, made.message, made.timings.created) == (Reason.NONE, "", LATER)
    assert (made.status, made.timings.queued) == (Status.PENDING, None)


def test_provisioned_again():
    """A life that lost its Service, and got another, was made when it was made first."""
    served = transitions.provisioned(
        transitions.without_service(MADE),
        ProvisionedObjects("sandbox-abc", "u-1", "other", "http://h:2"),
        now=LATER + 1,
    )
    assert (served.url, served.service_uid, served.timings.created) == ("http://h:2", "other", LATER)


def test_unserved():
    """Without its Service a life is not made, and nobody is sent to where it was; all else stays."""
    record = transitions.without_service(MADE)
    assert (record.is_provisioned, record.url) == (False, "")
    assert replace(record, url=MADE.url, service_uid=MADE.service_uid) == MADE


def test_taken_up():
    """The first worker that took it up counts, however often it is tried again."""
    record = transitions.started(transitions.started(FIRST, LATER), LATER + 1)
    assert record == replace(FIRST, timings=sandbox.Timings(queued=LATER))


@pytest.mark.parametrize(
    ("incarnation", "generation", "earlier"),
    [("1-a", 2, True), ("2-a", 2, False), ("3-a", 2, False), ("9-a", 10, True), ("", 2, False), ("x-1", 2, False)],
)
def test_is_earlier(incarnation: str, generation: int, earlier: bool):
    """Lives are counted, and not compared as words; what is no life is not earlier."""
    assert names.is_older_incarnation(incarnation, replace(FIRST, generation=generation)) is earlier


def test_failed():
    """A failed life is over, not ready, and says why."""
    record = transitions.failed(replace(MADE, status=Status.RUNNING, ready=True), Reason.POD_LOST, "gone")
    assert (record.status, record.ready, record.reason, record.message) == (
        *(Status.FAILED, False, Reason.POD_LOST, "gone"),
    )
    assert not record.is_active


def test_terminating():
    """A life that is being ended is not ready and wants no Pod, and is the same life still."""
    record = transitions.terminating(replace(MADE, status=Status.RUNNING, ready=True))
    assert (record.status, record.ready, record.is_active) == (Status.TERMINATING, False, False)
    assert record.incarnation == MADE.incarnation


def test_troubled():
    """Trouble that is being tried again changes what is said, and not the status that was last seen."""
    record = transitions.with_reason(FIRST, Reason.CLUSTER_UNAVAILABLE, "no answer")
    assert (record.status, record.reason, record.message) == (
        *(Status.PENDING, Reason.CLUSTER_UNAVAILABLE, "no answer"),
    )


def test_another_attempt():
    """Each attempt has a number of its own, in one and the same life."""
    record = transitions.next_attempt(transitions.next_attempt(FIRST))
    assert (record.attempt, record.incarnation) == (3, FIRST.incarnation)


@dataclass
class Due:
    why: str
    record: Sandbox
    at: float | None


DUE = [
    Due("waits for its Pod", FIRST, NOW + STALLED_SECONDS),
    Due("waits for its Pod, and has a URL already", replace(FIRST, url="http://h:1"), NOW + STALLED_SECONDS),
    Due("is made", MADE, None),
    Due("is made and has to be ready in time", replace(MADE, deadline=LATER), LATER),
    Due(
        "has lost its Service", transitions.without_service(replace(MADE, status=Status.RUNNING)), NOW + STALLED_SECONDS
    ),
    Due(
        "has lost its Service, and Kubernetes is slow",
        transitions.without_service(replace(MADE, deadline=1.0)),
        NOW + 15,
    ),
    Due("is made and expires", replace(MADE, lifetime=7.0), LATER),
    Due("runs", replace(MADE, status=Status.RUNNING), None),
    Due("runs, unseen by us when it was made", replace(FIRST, status=Status.RUNNING), NOW + STALLED_SECONDS),
    Due("is being deleted", transitions.terminating(MADE), NOW + STALLED_SECONDS),
    Due(
        "is being deleted, whenever it expires",
        transitions.terminating(replace(MADE, lifetime=7.0)),
        NOW + STALLED_SECONDS,
    ),
    Due("has failed", transitions.failed(FIRST, Reason.INVALID, "no"), None),
    Due(
        "has ended and is kept for a while", replace(MADE, status=Status.SUCCEEDED, deadline=LATER, lifetime=1.0), LATER
    ),
]


@pytest.mark.parametrize("due", DUE, ids=lambda due: due.why)
def test_due_at(due: Due):
    """What waits for a job is looked at again when it made no progress; all else when it expires, if it does."""
    assert due.record.due_at == due.at


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 15), (4, 15), (5, 15), (6, 30), (7, 60), (8, 120), (9, 240), (10, 240), (5000, 240)]
)
@pytest.mark.parametrize("record", [FIRST, transitions.terminating(MADE)], ids=["waits for its Pod", "being deleted"])
def test_due_at_after_many_attempts(record: Sandbox, attempt: int, seconds: float):
    """What many jobs could not move is looked at less and less often, and never given up."""
    assert replace(record, attempt=attempt).due_at == NOW + seconds


@pytest.mark.parametrize(
    ("incarnation", "pod", "service"),
    [
        ("1-0a1b2c3d", "sandbox-abc", "sandbox-abc-svc"),
        ("2-0a1b2c3d", "sandbox-abc-2", "sandbox-abc-2-svc"),
        ("12-0a1b2c3d", "sandbox-abc-12", "sandbox-abc-12-svc"),
    ],
)
def test_names(incarnation: str, pod: str, service: str):
    """The first life has DeerFlow's own names; a later one its number in them."""
    assert (names.object_name("abc", incarnation), names.service_name("abc", incarnation)) == (pod, service)


@given(sandbox_id=DNS_LABELS, generation=st.integers(1, 10**9))
def test_names_are_dns_labels(sandbox_id: str, generation: int):
    """No id of 40 characters, in no life, makes a name too long for Kubernetes; and each life has its own."""
    record = transitions.new_record(sandbox_id, SPEC, cluster="default", now=NOW, generation=generation)
    following = transitions.new_incarnation(record, SPEC, now=NOW)
    service = names.service_name(sandbox_id, record.incarnation)
    assert len(service) <= 63
    assert names.object_name(sandbox_id, record.incarnation) != names.object_name(sandbox_id, following.incarnation)


@pytest.mark.parametrize("status", Status)
def test_allowed_moves(status: Status):
    """Whatever a life is, it may stay that and be deleted; nothing comes back from its end or its delete."""
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
def test_cluster_ip_url_is_known_at_once(incarnation: str, url: str):
    """With ClusterIP a sandbox has its URL before its Service exists: a name of this life in the cluster's DNS."""
    settings = read_settings(
        {"SANDBOX_SERVICE_TYPE": "ClusterIP", "K8S_NAMESPACE": "agents", "SANDBOX_CONTAINER_PORT": "9000"}
    )
    generation, _, token = incarnation.partition("-")
    record = replace(FIRST, generation=int(generation), token=token)
    assert urls.with_url(record, settings).url == url
    assert urls.service_url(record, None, settings) == url


def test_node_port_url():
    """With NodePort a sandbox has no URL until its Service has a port, which then is one of the node."""
    settings = read_settings({"NODE_HOST": "10.0.0.7"})
    assert urls.with_url(FIRST, settings) == FIRST
    assert urls.service_url(FIRST, 30123, settings) == "http://10.0.0.7:30123"
    assert urls.service_url(FIRST, None, settings) == ""
