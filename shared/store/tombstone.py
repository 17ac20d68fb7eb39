"""Tombstones of deleted records: the last incarnation, and when and why it expired."""

import msgspec

from shared.sandbox.record import Sandbox


class Tombstone(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last deleted incarnation of an id. A Pod of it that turns up later is removed, not adopted.

    `at` (seconds since the epoch) and `by` (an ExpiryCause) are set if the incarnation expired.
    """

    incarnation: str
    at: float = 0.0
    by: str = ""


def tombstone_change(before: Sandbox | None, after: Sandbox | None) -> str:
    """Return what an update does with the tombstone: JSON writes one, `-` removes it, empty leaves it.

    A new incarnation removes the tombstone; a deleted record leaves one.
    """
    if after is not None and (before is None or before.token != after.token):
        return "-"
    if after is None and before is not None:
        tombstone = Tombstone(before.incarnation, before.expired_at or 0.0, before.expired_by)
        return msgspec.json.encode(tombstone).decode()
    return ""


decode_tombstone = msgspec.json.Decoder(Tombstone).decode
