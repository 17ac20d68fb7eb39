"""A position in a list that changes while it is read: the last sandbox seen, by creation time and then by id."""

import base64
import struct
from typing import NamedTuple

from shared.errors import InvalidRequest


class Cursor(NamedTuple):
    """The order of the index itself, so that no sandbox is skipped or repeated while others come and go."""

    created_at: float
    sandbox_id: str

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(struct.pack(">d", self.created_at) + self.sandbox_id.encode()).decode()


START = Cursor(float("-inf"), "")
"""The position before the first sandbox."""


def parse_cursor(text: str) -> Cursor:
    """Return the cursor that an earlier answer gave as `text`.

    Raises:
        InvalidRequest: `text` is not such a cursor.
    """
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        (created_at,) = struct.unpack(">d", raw[:8])
        cursor = Cursor(created_at, raw[8:].decode())
    except (ValueError, struct.error) as error:
        raise InvalidRequest("cursor: expected the `next_cursor` of an earlier answer", field="cursor") from error
    if str(cursor) != text or not abs(cursor.created_at) < float("inf"):
        raise InvalidRequest("cursor: expected the `next_cursor` of an earlier answer", field="cursor")
    return cursor
