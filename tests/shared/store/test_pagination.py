"""Cursors: a position in a list, as a text that a client sends back."""

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
def test_cursor_parsed_from_its_text_is_equal(cursor: Cursor):
    assert parse_cursor(str(cursor)) == cursor


@given(CURSORS)
def test_text_of_a_cursor_needs_no_quoting_in_a_url_except_its_padding(cursor: Cursor):
    assert str(cursor).rstrip("=").replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_text_is_either_exactly_a_cursor_or_an_invalid_request(text: str):
    """No other error is raised."""
    try:
        cursor = parse_cursor(text)
    except InvalidRequest as error:
        extra = error.extra
        assert extra == {"field": "cursor"}
    else:
        assert str(cursor) == text
        assert math.isfinite(cursor.created_at)


@given(CURSORS)
def test_every_cursor_comes_after_the_start(cursor: Cursor):
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
def test_cursors_are_ordered_by_time_then_by_the_bytes_of_the_id(earlier: Cursor, later: Cursor):
    """Redis orders the members of one score in the same way."""
    assert earlier < later


def test_text_of_the_start_is_refused():
    """A client that starts sends no cursor."""
    with pytest.raises(InvalidRequest):
        parse_cursor(str(START))
