from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.sandbox import history, transitions
from shared.sandbox.history import OURS
from shared.sandbox.record import Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects

NOW = 1_750_000_000.0
FIRST = transitions.new_record("abc", Spec(), cluster="default", now=NOW)
MADE = transitions.provisioned(FIRST, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=NOW)
RUNNING = replace(MADE, status=Status.RUNNING)
READY = replace(RUNNING, ready=True)
ADOPTED = replace(READY, token="ffffffff")


def says(before: Sandbox | None, after: Sandbox | None) -> list[tuple[str, str]]:
    """Type and reason of each entry that this change tells."""
    return [(entry.type, entry.reason) for entry in history.entries_for(before, after, NOW)]


CHANGES: dict[str, tuple[Sandbox | None, Sandbox | None, list[tuple[str, str]]]] = {
    "accepted": (None, FIRST, [("Normal", "Accepted")]),
    "the next life": (
        transitions.terminating(READY),
        transitions.new_incarnation(READY, READY.spec, now=NOW),
        [("Normal", "Accepted")],
    ),
    "adopted": (None, ADOPTED, [("Normal", "Adopted")]),
    "adopted in the place of one that waits": (FIRST, ADOPTED, [("Normal", "Adopted")]),
    "made": (FIRST, MADE, [("Normal", "Provisioned")]),
    "made, with trouble behind it": (
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        MADE,
        [("Normal", "Provisioned")],
    ),
    "runs": (MADE, RUNNING, [("Normal", "Running")]),
    "ready": (RUNNING, READY, [("Normal", "Ready")]),
    "runs and is ready": (MADE, READY, [("Normal", "Running"), ("Normal", "Ready")]),
    "not ready any more": (READY, RUNNING, [("Warning", "NotReady")]),
    "its node is silent": (
        READY,
        replace(READY, status=Status.UNKNOWN, ready=False),
        [("Normal", "Unknown"), ("Warning", "NotReady")],
    ),
    "in trouble": (
        FIRST,
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        [("Warning", "QuotaExceeded")],
    ),
    "in the same trouble, in other words": (
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "fuller"),
        [("Warning", "QuotaExceeded")],
    ),
    "out of trouble": (transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"), FIRST, []),
    "the second job": (FIRST, transitions.next_attempt(FIRST), []),
    "the third job": (
        transitions.next_attempt(FIRST),
        transitions.next_attempt(transitions.next_attempt(FIRST)),
        [("Warning", "Retried")],
    ),
    "its Service is gone": (
        READY,
        transitions.next_attempt(transitions.without_service(READY)),
        [("Warning", "ServiceLost")],
    ),
    "failed": (READY, transitions.failed(READY, Reason.POD_LOST, "gone"), [("Warning", "PodLost")]),
    "succeeded": (RUNNING, replace(RUNNING, status=Status.SUCCEEDED), [("Normal", "Succeeded")]),
    "being deleted": (
        READY,
        transitions.next_attempt(transitions.terminating(READY)),
        [("Normal", "Terminating")],
    ),
    "forgotten": (transitions.terminating(READY), None, []),
    "never there": (None, None, []),
    "taken up": (FIRST, transitions.started(FIRST, NOW), []),
    "written again": (READY, replace(READY, revision=9, updated_at=NOW + 9, deadline=NOW), []),
}


@pytest.mark.parametrize(("before", "after", "entries"), CHANGES.values(), ids=CHANGES)
def test_told(before: Sandbox | None, after: Sandbox | None, entries: list[tuple[str, str]]):
    """Each change that matters to a person is told, once; what changes nothing for them is not."""
    assert says(before, after) == entries


def test_ours():
    """What we tell is marked as ours, of the time of the change, and in words."""
    (entry,) = history.entries_for(FIRST, MADE, NOW + 0.12345)
    assert (entry.source, entry.at) == (OURS, NOW + 0.123)
    assert "sandbox-abc" in entry.message
    assert "http://h:1" in entry.message


def test_a_failure_is_told_with_its_cause():
    """The reason is the sandbox' own, and the message too."""
    (entry,) = history.entries_for(FIRST, transitions.failed(FIRST, Reason.FORBIDDEN, "may not"), NOW)
    assert (entry.reason, entry.message) == ("Forbidden", "may not")


def test_form():
    """An entry is a list of five, as Redis holds it and `redis-cli` shows it; what is written is read again."""
    entry = history.entry(NOW, "kubelet", "Warning", "FailedMount", 'volume "skills"')
    raw = history.encode_entry(entry)
    assert msgspec.json.decode(raw) == [NOW, "kubelet", "Warning", "FailedMount", 'volume "skills"']
    assert history.read_entry(raw) == entry


@pytest.mark.parametrize(("length", "kept"), [(300, 300), (301, 300), (5000, 300)])
def test_a_long_message_is_cut(length: int, kept: int):
    """Kubernetes' messages may be long: of one that is, the beginning is kept, and that it goes on."""
    message = history.entry(NOW, "kubelet", "Warning", "Failed", "m" * length).message
    assert len(message) == kept
    assert message.endswith("…") is (length > 300)


TEXT = st.text(max_size=400)


@given(st.floats(0, 2e10), st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_what_is_said_again(at: float, said: tuple[str, str, str, str]):
    """What an entry tells is how it ends in Redis, whenever it was told: by that it is found again there."""
    first, again = history.entry(NOW, *said), history.entry(at, *said)
    assert first.dedup_key == again.dedup_key
    assert history.encode_entry(again).decode().endswith(first.dedup_key)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_nothing_else_is_taken_for_it(one: tuple[str, str, str, str], other: tuple[str, str, str, str]):
    """No other entry ends so, not even one that quotes it."""
    told = history.entry(NOW, *one)
    quoting = (*other[:3], other[3] + history.encode_entry(told).decode())
    for said in (other, quoting):
        entry = history.entry(NOW, *said)
        is_same = replace(entry, at=told.at) == told
        assert history.encode_entry(entry).decode().endswith(f",{told.dedup_key}") is is_same


MOVES: list[Callable[[Sandbox], Sandbox]] = [
    transitions.next_attempt,
    transitions.terminating,
    transitions.without_service,
    lambda r: transitions.started(r, NOW),
    lambda r: transitions.failed(r, Reason.POD_LOST, "gone"),
    lambda r: transitions.with_reason(r, Reason.CLUSTER_UNAVAILABLE, "no answer"),
    lambda r: transitions.provisioned(r, ProvisionedObjects("p", "u", "s", "http://h"), now=NOW),
    lambda r: transitions.new_incarnation(r, r.spec, now=NOW),
    lambda r: replace(r, status=Status.RUNNING, ready=True),
    lambda r: replace(r, ready=False),
]


@given(st.lists(st.sampled_from(MOVES), max_size=12))
def test_any_sequence(transitions: list[Callable[[Sandbox], Sandbox]]):
    """Whatever a record goes through, each entry says something, and a record that did not change says nothing."""
    record = FIRST
    for mutate in transitions:
        after = mutate(record)
        entries = history.entries_for(record, after, NOW)
        record = after
        assert all(entry.reason and entry.message for entry in entries)
        assert history.entries_for(record, record, NOW) == []
