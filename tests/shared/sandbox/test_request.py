import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.sandbox.record import Mount, Spec
from shared.sandbox.request import TEXT_RULES, CreateSandbox, ExtraMount, TextRule, read_create

MOUNT: dict[str, Any] = {"host_path": "/srv/deer/a", "container_path": "/mnt/acp-workspace"}


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_create(body)
    return caught.value


def outcome(body: bytes) -> CreateSandbox | InvalidRequest:
    """Return the request or its refusal. No other exception is expected."""
    try:
        return read_create(body)
    except InvalidRequest as error:
        return error


def test_empty_object_gives_the_defaults():
    request = read_create(b"{}")
    assert request == CreateSandbox()
    assert request.spec() == Spec()
    assert (request.sandbox_id, request.spec().user_id, request.spec().thread_id) == (None, "default", None)


def test_each_field_with_an_effect_is_in_the_spec():
    body = {
        "sandbox_id": "abc",
        "thread_id": "t1",
        "user_id": "ada",
        "extra_mounts": [{**MOUNT, "read_only": True}, MOUNT],
        "include_legacy_skills": True,
        "provision_lark_cli_runtime": True,
        "provision_lark_cli_broker": True,
    }
    request = read_create(json.dumps(body).encode())
    assert request.sandbox_id == "abc"
    assert request.extra_mounts == [
        ExtraMount("/srv/deer/a", "/mnt/acp-workspace", read_only=True),
        ExtraMount("/srv/deer/a", "/mnt/acp-workspace"),
    ]
    assert request.spec() == Spec(
        user_id="ada",
        thread_id="t1",
        extra_mounts=(
            Mount("/srv/deer/a", "/mnt/acp-workspace", read_only=True),
            Mount("/srv/deer/a", "/mnt/acp-workspace"),
        ),
        provision_lark_cli_runtime=True,
        provision_lark_cli_broker=True,
    )


VALID: dict[str, list[Any]] = {
    "sandbox_id": [None, "a", "0", "a-b", "a--b", "a" * 40, "0123456789abcdef"],
    "thread_id": [None, "a", "A_-9", "-", "a" * 64],
    "user_id": ["a", "A_-9", "_", "null", "a" * 128],
    "extra_mounts": [None, [], [MOUNT] * 10, [{**MOUNT, "mode": "rw"}]],
    "include_legacy_skills": [True, False],
    "anything_else": [None, 1, "x", [[]], {"sandbox_id": "A B"}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in VALID.items() for value in values], ids=str
)
def test_valid_value_is_kept_and_unknown_field_is_ignored(field: str, value: Any):
    request = read_create(json.dumps({field: value}).encode())
    if field == "extra_mounts":
        assert len(request.extra_mounts or []) == len(value or [])
    else:
        assert getattr(request, field, value) == value


INVALID: dict[str, list[Any]] = {
    "sandbox_id": ["", "-a", "a-", "A", "a.b", "a" * 41, "a\n", 1, True, []],
    "thread_id": ["", "a b", "a/b", "..", "é", "a" * 65, "a\n", "a\x00", 1],
    "user_id": ["", None, "a.b", "../a", "a" * 129, "a\n", 1, {}],
    "extra_mounts": [{}, "", 0, [MOUNT] * 11],
    "include_legacy_skills": [None, 0, "false"],
    "provision_lark_cli_runtime": [None, 1],
    "provision_lark_cli_broker": [None, "x"],
}
INVALID_MOUNTS: list[Any] = [None, "", [], {}, {"host_path": "/a"}]
INVALID_BODIES: dict[str, list[Any]] = {
    "extra_mounts[0]": [{"extra_mounts": [bad]} for bad in INVALID_MOUNTS],
    "extra_mounts[1].host_path": [{"extra_mounts": [MOUNT, {**MOUNT, "host_path": bad}]} for bad in ("", 1, None)],
    "extra_mounts[0].host_path": [{"extra_mounts": [{**MOUNT, "host_path": "a" * 4097}]}],
    "extra_mounts[9].container_path": [{"extra_mounts": [MOUNT] * 9 + [{**MOUNT, "container_path": 1}]}],
    "extra_mounts[0].read_only": [{"extra_mounts": [{**MOUNT, "read_only": bad}]} for bad in (None, 1, "true")],
    "body": [[], None, "abc", 1, True],
    **{field: [{field: value} for value in values] for field, values in INVALID.items()},
}


@pytest.mark.parametrize(
    ("field", "body"), [(field, body) for field, bodies in INVALID_BODIES.items() for body in bodies], ids=str
)
def test_invalid_value_is_refused_with_its_field_and_no_regular_expression(field: str, body: Any):
    error = refusal(json.dumps(body).encode())
    assert error.extra == {"field": field}
    assert error.detail.startswith(field)
    assert "$" not in error.detail
    assert "regex" not in error.detail


@pytest.mark.parametrize(("field", "rule"), TEXT_RULES.items(), ids=TEXT_RULES)
@pytest.mark.parametrize("text", ["", "é", "a\n", "a b", "a" * 129])
def test_refused_text_is_explained_in_the_words_of_its_rule(field: str, rule: TextRule, text: str):
    assert refusal(json.dumps({field: text}).encode()).detail == f"{field}: expected {rule.expected}"


@pytest.mark.parametrize("rule", TEXT_RULES.values(), ids=TEXT_RULES)
def test_documented_pattern_has_only_syntax_that_go_and_javascript_compile(rule: TextRule):
    """Go has no lookaheads, and JavaScript has no escape for the very end of a text."""
    assert "(?" not in rule.pattern
    assert "\\" not in rule.pattern


@pytest.mark.parametrize("rule", TEXT_RULES.values(), ids=TEXT_RULES)
@given(text=st.text("aA0-_\n", max_size=5))
def test_python_pattern_matches_exactly_the_accepted_texts(rule: TextRule, text: str):
    assert bool(re.search(rule.python_pattern, text)) is rule.accepts(text)
    assert not (text.endswith("\n") and rule.accepts(text))


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
def test_body_that_is_not_json_in_utf8_is_refused_as_a_whole(body: bytes):
    assert refusal(body).extra == {"field": "body"}


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_a_refusal(body: bytes):
    assert isinstance(outcome(body), CreateSandbox | InvalidRequest)


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
def test_any_json_is_refused_with_its_field_or_keeps_every_rule(value: Any):
    result = outcome(json.dumps(value).encode())
    if isinstance(result, InvalidRequest):
        assert result.extra["field"]
    else:
        assert isinstance(value, dict)
        assert result.user_id == value.get("user_id", "default")
        assert len(result.spec().extra_mounts) <= 10
