"""Waits in the `Prefer` header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.prefer import APPLIED, MAX_WAIT_SECONDS, applied, wait_seconds
from tests.api.conftest import Api

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=0", 0),
        ("wait=5", 5),
        ("wait=60", 60),
        ("wait=61", 60),
        ("wait=999999999", 60),
        ("wait=" + "9" * 10, 60),
        ("wait=" + "9" * 900, 60),
        ("wait=007", 7),
        ('wait="5"', 5),
        ("wait = 5", 5),
        (' wait\t=\t"5" ', 5),
        ("Wait=5", 5),
        ("WAIT=5", 5),
        ("respond-async, wait=5", 5),
        ("wait=5, respond-async", 5),
        ("respond-async,wait=5,handling=lenient", 5),
        ("return=minimal; foo=bar, wait=5", 5),
        ("wait=5; foo=bar", 5),
        ("wait=5, wait=10", 5),
    ],
)
def test_wait_is_found_in_any_position_quotes_and_case(prefer: str, seconds: int):
    """The first one counts; 60 s is the maximum."""
    assert wait_seconds(prefer) == seconds


@pytest.mark.parametrize(
    "prefer",
    [
        None,
        "",
        " ",
        ",",
        "respond-async",
        "wait",
        "wait=",
        'wait=""',
        "wait=-1",
        "wait=+1",
        "wait=1.5",
        "wait=1e1",
        "wait=0x10",
        "wait=five",
        "wait=5s",
        "wait=5 6",
        "wait=1_0",
        "wait=inf",
        "await=5",
        "wait-for=5",
        "no-wait=5",
        'note="wait=5"',
        'note="wait=5, b"',
        "wait:5",
        "\x00",
        "é",
    ],
)
def test_header_without_a_wait_in_whole_seconds_has_none(prefer: str | None):
    """RFC 7240: a preference that the server cannot read is ignored, and no error."""
    assert wait_seconds(prefer) is None


@pytest.mark.parametrize("prefer", ['note="a, wait=5"', "respond-async; wait=5"])
def test_wait_inside_another_preference_is_ignored(prefer: str):
    assert wait_seconds(prefer) is None


@given(st.text())
def test_any_header_text_gives_no_wait_or_one_within_the_maximum(prefer: str):
    seconds = wait_seconds(prefer)
    assert seconds is None or 0 <= seconds <= MAX_WAIT_SECONDS


OTHERS = st.sampled_from(["respond-async", "return=minimal", 'x="y"', "handling=strict; a=b", "depth=5", ""])


@given(seconds=st.integers(0, 999_999_999), before=st.lists(OTHERS, max_size=3), after=st.lists(OTHERS, max_size=3))
def test_other_preferences_do_not_change_the_wait(seconds: int, before: list[str], after: list[str]):
    assert wait_seconds(", ".join([*before, f"wait={seconds}", *after])) == min(seconds, MAX_WAIT_SECONDS)


@given(st.integers(0, MAX_WAIT_SECONDS))
def test_applied_header_states_the_wait(seconds: int):
    assert wait_seconds(applied(seconds)[APPLIED]) == seconds


def test_applied_header_is_left_out_without_a_wait():
    assert applied(None) == {}


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("wait=0", "wait=0"), ("respond-async, WAIT=3", "wait=3"), ("wait=90", "wait=60"), ("wait=-1", None), ("", None)],
)
async def test_response_confirms_the_wait(api: Api, prefer: str, expected: str | None):
    """Also if nothing had to be waited for."""
    headers = {"Prefer": prefer}
    response = await api.delete("/api/sandboxes/abc", headers=headers)
    assert (response.status_code, response.headers.get(APPLIED)) == (200, expected)


async def test_wait_in_any_of_several_header_lines_counts(api: Api):
    """HTTP joins the lines to one list."""
    lines = [("Prefer", "respond-async"), ("Prefer", "wait=0"), ("Prefer", "return=minimal")]
    response = await api.delete("/api/sandboxes/abc", headers=lines)
    assert response.headers.get(APPLIED) == "wait=0"


@pytest.mark.parametrize("prefer", ["a" * 60_000 + "@", "a" + " " * 900 + "@", "a;" + "b" * 900 + '"', "x wait=5"])
def test_long_or_malformed_header_has_no_wait(prefer: str):
    """A regular expression that backtracks would exceed the time limit of the test."""
    assert wait_seconds(prefer) is None
