import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.prefer import APPLIED, MAX_WAIT_SECONDS, applied, wait_seconds

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
def test_a_wait(prefer: str, seconds: int):
    """A wait is found wherever it stands, quoted or not, in any case; the first counts, and 60 s are the most."""
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
def test_no_wait(prefer: str | None):
    """What is not a wait in whole seconds is ignored, as RFC 7240 has it, and is no error."""
    assert wait_seconds(prefer) is None


@pytest.mark.parametrize("prefer", ['note="a, wait=5"', "respond-async; wait=5"])
def test_a_wait_of_another_preference(prefer: str):
    """A `wait` inside another preference's value, or among its parameters, is not ours."""
    assert wait_seconds(prefer) is None


@given(st.text())
def test_any_text(prefer: str):
    """Whatever a header says, the wait is none, or one that we keep."""
    seconds = wait_seconds(prefer)
    assert seconds is None or 0 <= seconds <= MAX_WAIT_SECONDS


OTHERS = st.sampled_from(["respond-async", "return=minimal", 'x="y"', "handling=strict; a=b", "depth=5", ""])


@given(seconds=st.integers(0, 999_999_999), before=st.lists(OTHERS, max_size=3), after=st.lists(OTHERS, max_size=3))
def test_among_others(seconds: int, before: list[str], after: list[str]):
    """Other preferences, before or after, change nothing about the wait."""
    assert wait_seconds(", ".join([*before, f"wait={seconds}", *after])) == min(seconds, MAX_WAIT_SECONDS)


@given(st.integers(0, MAX_WAIT_SECONDS))
def test_applied(seconds: int):
    """What was applied is said in the words it was asked in."""
    assert wait_seconds(applied(seconds)[APPLIED]) == seconds


def test_nothing_applied():
    """Where no wait was asked for, none is said to be applied."""
    assert applied(None) == {}


@pytest.mark.parametrize(
    ("prefer", "said"),
    [("wait=0", "wait=0"), ("respond-async, WAIT=3", "wait=3"), ("wait=90", "wait=60"), ("wait=-1", None), ("", None)],
)
async def test_what_an_answer_says(api: httpx.AsyncClient, prefer: str, said: str | None):
    """An answer tells which wait it kept to, also when there was nothing to wait for."""
    headers = {"Prefer": prefer}
    removed = await api.delete("/api/sandboxes/abc", headers=headers)
    assert (removed.status_code, removed.headers.get(APPLIED)) == (200, said)


async def test_several_lines(api: httpx.AsyncClient):
    """A wait counts in whichever of several `Prefer` lines it stands: they are one list."""
    lines = [("Prefer", "respond-async"), ("Prefer", "wait=0"), ("Prefer", "return=minimal")]
    removed = await api.delete("/api/sandboxes/abc", headers=lines)
    assert removed.headers.get(APPLIED) == "wait=0"


@pytest.mark.parametrize("prefer", ["a" * 60_000 + "@", "a" + " " * 900 + "@", "a;" + "b" * 900 + '"', "x wait=5"])
def test_what_is_no_list_of_preferences(prefer: str):
    """However long or malformed a header is, it is read in no time to speak of, and asks for nothing."""
    assert wait_seconds(prefer) is None
