"""A place in a list that others add to and take from: the last sandbox seen, by time of creation and then by id."""

import base64
import struct
from typing import NamedTuple

from shared.errors import InvalidRequest


class Cursor(NamedTuple):
    """Exactly what the index is ordered by, so that nothing is skipped or repeated, whatever comes and goes."""

    created_at: float
    sandbox_id: str

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(struct.pack(">d", self.created_at) + self.sandbox_id.encode()).decode()


START = Cursor(float("-inf"), "")


def parse_cursor(text: str) -> Cursor:
    """Raises InvalidRequest: it is not one of ours."""
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        (created_at,) = struct.unpack(">d", raw[:8])
        cursor = Cursor(created_at, raw[8:].decode())
    except (ValueError, struct.error) as error:
        raise InvalidRequest("cursor: expected the `next_cursor` of an earlier answer", field="cursor") from error
    if str(cursor) != text or not abs(cursor.created_at) < float("inf"):
        raise InvalidRequest("cursor: expected the `next_cursor` of an earlier answer", field="cursor")
    return cursor
