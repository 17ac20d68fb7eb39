"""Odd objects: each is set aside, with what can be read of its metadata."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kubernetes.client import PODS
from worker.kubernetes.decoding import Unreadable, read_frame, read_page
from worker.kubernetes.errors import KubernetesError
from worker.kubernetes.json_split import members, split

LEVELS = 100_000


def pod(name: str, uid: str | None = None, extra: str = "", metadata: str = "") -> str:
    identity = f'"name": "{name}", "uid": "{uid or name}", "labels": {{"sandbox-id": "{name}"}}'
    return f'{{"metadata": {{{identity}{metadata}}}{extra}}}'


def page_of(*pods: str | bytes) -> bytes:
    items = b", ".join(p.encode() if isinstance(p, str) else p for p in pods)
    return b'{"kind": "PodList", "metadata": {"resourceVersion": "7", "continue": "more"}, "items": [' + items + b"]}"


DEEP = "[" * LEVELS + "]" * LEVELS
ODD: dict[str, str | bytes] = {
    "a wrong type": pod("odd", extra=', "status": {"phase": 7}'),
    "a list for the status": pod("odd", extra=', "status": []'),
    "null for the spec": pod("odd", extra=', "spec": null'),
    "wrong UTF-8": pod("odd", extra=', "status": {"reason": "x"}').encode().replace(b'"x"', b'"\xff"'),
    "half a surrogate": pod("odd", extra=r', "status": {"reason": "\ud800"}'),
    "an enormous number": pod("odd", extra=', "status": {"containerStatuses": [{"name": "c", "restartCount": 1e999}]}'),
    "5,000 digits": pod(
        "odd", extra=f', "status": {{"containerStatuses": [{{"name": "", "restartCount": {"9" * 5000}}}]}}'
    ),
    "a time without zone": pod("odd", metadata=', "creationTimestamp": "2026-01-01T00:00:00"'),
    "a time that is none": pod("odd", metadata=', "creationTimestamp": "9999-99-99T00:00:00Z"'),
    "too many levels": pod("odd", extra=f', "extra": {DEEP}'),
    "too many levels in its metadata": pod("odd", metadata=f', "managedFields": {DEEP}'),
    "a text as object key": pod("odd", metadata=r', "a\"}{[,:b": "]}{[\\"', extra=f', "extra": {DEEP}'),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_object_is_set_aside_with_its_uid(odd: str | bytes):
    page = read_page(page_of(pod("a"), odd, pod("b")), PODS.decode)
    assert [item.metadata.name for item in page.items] == ["a", "b"]
    assert [(item.metadata.name, item.metadata.uid) for item in page.unreadable] == [("odd", "odd")]
    assert (page.metadata.resource_version, page.metadata.continue_) == ("7", "more")


WITHOUT_UID: dict[str, str | bytes] = {
    "no metadata": "{}",
    "metadata of a wrong type": '{"metadata": 7}',
    "a uid of a wrong type": '{"metadata": {"name": "odd", "uid": {}}}',
    "no uid": '{"metadata": {"name": "odd"}}',
    "a uid in wrong UTF-8": b'{"metadata": {"name": "odd", "uid": "\xff"}}',
    "a list": "[1, 2]",
    "null": "null",
    "a text": '"{"',
}


@pytest.mark.parametrize("odd", WITHOUT_UID.values(), ids=WITHOUT_UID)
def test_object_without_readable_uid_is_set_aside_without_one(odd: str | bytes):
    page = read_page(page_of(odd, pod("a")), PODS.decode)
    assert [item.metadata.name for item in page.items] == ["a"]
    assert [item.metadata.uid for item in page.unreadable] == [""]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_frame_with_odd_object_can_be_read(odd: str | bytes):
    line = b'{"type": "DELETED", "object": %b}' % (odd.encode() if isinstance(odd, str) else odd)
    frame = read_frame(line)
    assert frame.type == "DELETED"
    decoded = PODS.decode(frame.object)
    assert isinstance(decoded, Unreadable)
    assert decoded.metadata.uid == "odd"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"null",
        b'{"items": []}',
        b'{"items": 7, "metadata": {}}',
        b'{"metadata": {}',
        DEEP.encode(),
        b"\xff",
    ],
)
def test_text_of_another_program_is_refused(text: bytes):
    with pytest.raises(KubernetesError, match="the answer is not from Kubernetes"):
        read_page(text, PODS.decode)
    with pytest.raises(KubernetesError, match="the answer is not from Kubernetes"):
        read_frame(text)


# Splitting


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.lists(DOCUMENTS), st.sampled_from([None, 1]))
def test_split_of_array_returns_its_elements(documents: list[Any], indent: int | None):
    assert [json.loads(part) for part in split(json.dumps(documents, indent=indent).encode())] == documents


@given(st.dictionaries(st.from_regex(r"[a-zA-Z]+", fullmatch=True), DOCUMENTS))
def test_members_of_object_are_its_values_by_key(document: dict[str, Any]):
    parts = members(json.dumps(document).encode())
    assert {key.decode(): json.loads(value) for key, value in parts.items()} == document


@given(st.binary() | st.text(alphabet='[]{},:"\\ a').map(str.encode))
def test_split_of_incomplete_text_is_refused(raw: bytes):
    """A list that is cut off must not look complete."""
    with suppress(ValueError):
        split(b"[" + raw + b"]")
    with pytest.raises(ValueError, match="no complete array"):
        split(b"[" + raw.replace(b"]", b"").replace(b"}", b""))


@pytest.mark.parametrize("cut", range(1, 60))
def test_page_that_is_cut_off_is_refused(cut: int):
    with pytest.raises(KubernetesError):
        read_page(page_of(pod("a"), ODD["half a surrogate"])[:-cut], PODS.decode)
