import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.sandbox.record import Mount, Spec
from shared.sandbox.request import CreateSandbox, ExtraMount, read_create

MOUNT = {"host_path": "/srv/deer/a", "container_path": "/mnt/acp-workspace"}


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_create(body)
    return caught.value


def outcome(body: bytes) -> CreateSandbox | InvalidRequest:
    """The request or its refusal; nothing else may be raised."""
    try:
        return read_create(body)
    except InvalidRequest as error:
        return error


def test_nothing_asked():
    """An empty object asks for what there is without asking."""
    asked = read_create(b"{}")
    assert asked == CreateSandbox()
    assert asked.spec() == Spec()
    assert (asked.sandbox_id, asked.spec().user_id, asked.spec().thread_id) == (None, "default", None)


def test_everything_asked():
    """Each field ends up in the specification, but for the one that has no effect."""
    body = {
        "sandbox_id": "abc",
        "thread_id": "t1",
        "user_id": "ada",
        "extra_mounts": [{**MOUNT, "read_only": True}, MOUNT],
        "include_legacy_skills": True,
        "provision_lark_cli_runtime": True,
        "provision_lark_cli_broker": True,
    }
    asked = read_create(json.dumps(body).encode())
    assert asked.sandbox_id == "abc"
    assert asked.extra_mounts == [ExtraMount(**MOUNT, read_only=True), ExtraMount(**MOUNT)]
    assert asked.spec() == Spec(
        user_id="ada",
        thread_id="t1",
        extra_mounts=(Mount(**MOUNT, read_only=True), Mount(**MOUNT)),
        provision_lark_cli_runtime=True,
        provision_lark_cli_broker=True,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sandbox_id", good) for good in (None, "a", "0", "a-b", "a--b", "a" * 40, "0123456789abcdef")),
        *(("thread_id", good) for good in (None, "a", "A_-9", "-", "a" * 64)),
        *(("user_id", good) for good in ("a", "A_-9", "_", "null", "a" * 128)),
        *(("extra_mounts", good) for good in (None, [], [MOUNT] * 10, [{**MOUNT, "mode": "rw"}])),
        *(("include_legacy_skills", good) for good in (True, False)),
        *(("anything_else", good) for good in (None, 1, "x", [[]], {"sandbox_id": "A B"})),
    ],
    ids=str,
)
def test_good(field: str, value: Any):
    """What keeps a field's rule is taken as it is, and a field that we do not know is nobody's business."""
    asked = read_create(json.dumps({field: value}).encode())
    if field == "extra_mounts":
        assert len(asked.extra_mounts or []) == len(value or [])
    else:
        assert getattr(asked, field, value) == value


@pytest.mark.parametrize(
    ("field", "body"),
    [
        *(("sandbox_id", {"sandbox_id": bad}) for bad in ("", "-a", "a-", "A", "a.b", "a" * 41, "a\n", 1, True, [])),
        *(("thread_id", {"thread_id": bad}) for bad in ("", "a b", "a/b", "..", "é", "a" * 65, "a\n", "a\x00", 1)),
        *(("user_id", {"user_id": bad}) for bad in ("", None, "a.b", "../a", "a" * 129, "a\n", 1, {})),
        *(("extra_mounts", {"extra_mounts": bad}) for bad in ({}, "", 0, [MOUNT] * 11)),
        *(("extra_mounts[0]", {"extra_mounts": [bad]}) for bad in (None, "", [], {}, {"host_path": "/a"})),
        *(("extra_mounts[1].host_path", {"extra_mounts": [MOUNT, {**MOUNT, "host_path": b}]}) for b in ("", 1, None)),
        *(("extra_mounts[0].host_path", {"extra_mounts": [{**MOUNT, "host_path": b}]}) for b in ("a" * 4097,)),
        *(("extra_mounts[9].container_path", {"extra_mounts": [MOUNT] * 9 + [{**MOUNT, "container_path": 1}]}),),
        *(("extra_mounts[0].read_only", {"extra_mounts": [{**MOUNT, "read_only": b}]}) for b in (None, 1, "true")),
        *(("include_legacy_skills", {"include_legacy_skills": bad}) for bad in (None, 0, "false")),
        *(("provision_lark_cli_runtime", {"provision_lark_cli_runtime": bad}) for bad in (None, 1)),
        *(("provision_lark_cli_broker", {"provision_lark_cli_broker": bad}) for bad in (None, "x")),
        *(("body", bad) for bad in ([], None, "abc", 1, True)),
    ],
    ids=str,
)
def test_bad(field: str, body: Any):
    """What breaks a field's rule is refused with the field as the caller wrote it."""
    error = refusal(json.dumps(body).encode())
    assert error.extra == {"field": field}
    assert error.detail.startswith(field)
    assert "$" not in error.detail.partition("regex")[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"{,}",
        b"\xef\xbb\xbf{}",
        b'{"user_id": "\xff"}',
        b'{"other": "\xff"}',
        b'{"other": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"other": ' + b"9" * 100_000 + b"x}",
        b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"other": NaN}',
        "{}".encode("utf-16"),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_not_json(body: bytes):
    """What is no JSON in UTF-8 is refused as a whole."""
    assert refusal(body).extra == {"field": "body"}


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes):
    """Whatever the bytes, nothing but a refusal is raised."""
    assert outcome(body)


FIELDS = [*CreateSandbox.__struct_fields__, *ExtraMount.__struct_fields__, "other"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**18, 10**400)
    | st.floats()
    | st.text()
    | st.sampled_from(["\x00", "\ud800", "a" * 5000, "abc", "/srv/deer", "/mnt/acp-workspace"]),
    lambda inner: (
        st.lists(inner, max_size=12) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_json(value: Any):
    """Whatever the JSON, it is refused with its field, or keeps every rule."""
    asked = outcome(json.dumps(value).encode())
    if isinstance(asked, InvalidRequest):
        assert asked.extra["field"]
    else:
        assert isinstance(value, dict)
        assert asked.user_id == value.get("user_id", "default")
        assert len(asked.spec().extra_mounts) <= 10
