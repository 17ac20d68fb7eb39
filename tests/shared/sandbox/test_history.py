from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.sandbox import history, transitions
from shared.sandbox.history import PROVISIONER
from shared.sandbox.record import Reason, Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects

NOW = 1_750_000_000.0
FIRST = transitions.new_record("abc", Spec(), cluster="default", now=NOW)
PROVISIONED = transitions.provisioned(FIRST, ProvisionedObjects("sandbox-abc", "u-1", "service", "http://h:1"), now=NOW)
RUNNING = replace(PROVISIONED, status=Status.RUNNING)
READY = replace(RUNNING, ready=True)
ADOPTED = replace(READY, token="ffffffff")


def types_and_reasons(before: Sandbox | None, after: Sandbox | None) -> list[tuple[str, str]]:
    return [(entry.type, entry.reason) for entry in history.entries_for(before, after, NOW)]


CHANGES: dict[str, tuple[Sandbox | None, Sandbox | None, list[tuple[str, str]]]] = {
    "accepted": (None, FIRST, [("Normal", "Accepted")]),
    "next incarnation": (
        transitions.terminating(READY),
        transitions.new_incarnation(READY, READY.spec, now=NOW),
        [("Normal", "Accepted")],
    ),
    "adopted": (None, ADOPTED, [("Normal", "Adopted")]),
    "adopted in place of a waiting incarnation": (FIRST, ADOPTED, [("Normal", "Adopted")]),
    "provisioned": (FIRST, PROVISIONED, [("Normal", "Provisioned")]),
    "provisioned after retries": (
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        PROVISIONED,
        [("Normal", "Provisioned")],
    ),
    "running": (PROVISIONED, RUNNING, [("Normal", "Running")]),
    "ready": (RUNNING, READY, [("Normal", "Ready")]),
    "running and ready": (PROVISIONED, READY, [("Normal", "Running"), ("Normal", "Ready")]),
    "unready again": (READY, RUNNING, [("Warning", "NotReady")]),
    "node lost": (
        READY,
        replace(READY, status=Status.UNKNOWN, ready=False),
        [("Normal", "Unknown"), ("Warning", "NotReady")],
    ),
    "retried": (
        FIRST,
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        [("Warning", "QuotaExceeded")],
    ),
    "retried with another message": (
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"),
        transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "fuller"),
        [("Warning", "QuotaExceeded")],
    ),
    "retries end": (transitions.with_reason(FIRST, Reason.QUOTA_EXCEEDED, "full"), FIRST, []),
    "second attempt": (FIRST, transitions.next_attempt(FIRST), []),
    "third attempt": (
        transitions.next_attempt(FIRST),
        transitions.next_attempt(transitions.next_attempt(FIRST)),
        [("Warning", "Retried")],
    ),
    "Service lost": (
        READY,
        transitions.next_attempt(transitions.without_service(READY)),
        [("Warning", "ServiceLost")],
    ),
    "failed": (READY, transitions.failed(READY, Reason.POD_LOST, "gone"), [("Warning", "PodLost")]),
    "succeeded": (RUNNING, replace(RUNNING, status=Status.SUCCEEDED), [("Normal", "Succeeded")]),
    "deleted": (
        READY,
        transitions.next_attempt(transitions.terminating(READY)),
        [("Normal", "Terminating")],
    ),
    "record deleted": (transitions.terminating(READY), None, []),
    "no record": (None, None, []),
    "started": (FIRST, transitions.started(FIRST, NOW), []),
    "other fields changed": (READY, replace(READY, revision=9, updated_at=NOW + 9, deadline=NOW), []),
}


@pytest.mark.parametrize(("before", "after", "entries"), CHANGES.values(), ids=CHANGES)
def test_transition_has_entries_only_for_what_matters_to_people(
    before: Sandbox | None, after: Sandbox | None, entries: list[tuple[str, str]]
):
    assert types_and_reasons(before, after) == entries


def test_entry_of_a_transition_has_source_time_and_details():
    (entry,) = history.entries_for(FIRST, PROVISIONED, NOW + 0.12345)
    assert (entry.source, entry.at) == (PROVISIONER, NOW + 0.123)
    assert "sandbox-abc" in entry.message
    assert "http://h:1" in entry.message


def test_entry_of_a_failure_has_reason_and_message_of_the_record():
    (entry,) = history.entries_for(FIRST, transitions.failed(FIRST, Reason.FORBIDDEN, "may not"), NOW)
    assert (entry.reason, entry.message) == ("Forbidden", "may not")


def test_encoded_entry_is_a_list_of_five_that_decodes_to_the_same_entry():
    """`redis-cli` shows entries in this form."""
    entry = history.entry(NOW, "kubelet", "Warning", "FailedMount", 'volume "skills"')
    raw = history.encode_entry(entry)
    assert msgspec.json.decode(raw) == [NOW, "kubelet", "Warning", "FailedMount", 'volume "skills"']
    assert history.read_entry(raw) == entry


@pytest.mark.parametrize(("length", "expected"), [(300, 300), (301, 300), (5000, 300)])
def test_long_message_is_cut_and_ends_in_an_ellipsis(length: int, expected: int):
    message = history.entry(NOW, "kubelet", "Warning", "Failed", "m" * length).message
    assert len(message) == expected
    assert message.endswith("…") is (length > 300)


TEXT = st.text(max_size=400)


@given(st.floats(0, 2e10), st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_equal_entries_of_different_times_end_in_the_same_dedup_key(time: float, texts: tuple[str, str, str, str]):
    """The store finds an earlier equal entry by this end."""
    first, second = history.entry(NOW, *texts), history.entry(time, *texts)
    assert first.dedup_key == second.dedup_key
    assert history.encode_entry(second).decode().endswith(first.dedup_key)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_different_entry_does_not_end_in_the_dedup_key(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
):
    """An entry that quotes another entry does not end in its key either."""
    entry = history.entry(NOW, *one)
    quoting = (*other[:3], other[3] + history.encode_entry(entry).decode())
    for texts in (other, quoting):
        second = history.entry(NOW, *texts)
        is_same = replace(second, at=entry.at) == entry
        assert history.encode_entry(second).decode().endswith(f",{entry.dedup_key}") is is_same


TRANSITIONS: list[Callable[[Sandbox], Sandbox]] = [
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


@given(st.lists(st.sampled_from(TRANSITIONS), max_size=12))
def test_any_sequence_has_entries_with_texts_and_none_without_a_change(sequence: list[Callable[[Sandbox], Sandbox]]):
    record = FIRST
    for mutate in sequence:
        after = mutate(record)
        entries = history.entries_for(record, after, NOW)
        record = after
        assert all(entry.reason and entry.message for entry in entries)
        assert history.entries_for(record, record, NOW) == []
