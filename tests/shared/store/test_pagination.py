import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.store.pagination import START, Cursor, parse_cursor

CURSORS = st.builds(
    Cursor, st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(codec="utf-8"), max_size=40)
)


@given(CURSORS)
def test_there_and_back(cursor: Cursor):
    """A cursor on the wire is the place that it was."""
    assert parse_cursor(str(cursor)) == cursor


@given(CURSORS)
def test_on_the_wire(cursor: Cursor):
    """A cursor needs no quoting in a URL but for its padding."""
    assert str(cursor).rstrip("=").replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_text(text: str):
    """What is not exactly one of ours is refused as the caller's, and nothing else is raised."""
    found: Cursor | InvalidRequest
    try:
        found = parse_cursor(text)
    except InvalidRequest as error:
        found = error
    if isinstance(found, InvalidRequest):
        assert found.extra == {"field": "cursor"}
    else:
        assert str(found) == text
        assert math.isfinite(found.created_at)


@given(CURSORS)
def test_all_come_after_the_beginning(cursor: Cursor):
    """Nothing comes before the beginning."""
    assert cursor > START


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Cursor(1.0, "b"), Cursor(2.0, "a")),
        (Cursor(1.0, "a"), Cursor(1.0, "b")),
        (Cursor(1.0, "a"), Cursor(1.0, "a0")),
        (Cursor(1.0, "a-"), Cursor(1.0, "a0")),
        (Cursor(1.0, "9"), Cursor(1.0, "a")),
    ],
)
def test_order(earlier: Cursor, later: Cursor):
    """By time, and at one time by id as Redis orders it: byte by byte."""
    assert earlier < later


def test_the_beginning_is_no_cursor_to_send():
    """The beginning is where one is without a cursor."""
    with pytest.raises(InvalidRequest):
        parse_cursor(str(START))
