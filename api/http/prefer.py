"""Waits: `Prefer: wait=N` (RFC 7240), and the waits that today's DeerFlow client tolerates."""

import re
from typing import Final

MAX_WAIT_SECONDS: Final = 60
HEADER: Final = "Prefer"
MAX_HEADER: Final = 1000
"""Characters of a header that is parsed. A longer header is no list of preferences and would cost time."""
APPLIED: Final = "Preference-Applied"

COMPAT_CREATE_SECONDS: Final = 25.0
"""Wait of a create in compat mode. Today's client gives up a create after 30 s."""
COMPAT_READ_SECONDS: Final = 8.0
"""Wait of a read in compat mode. Today's client gives up a read after 10 s."""

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf'\s*({_NAME})\s*(?:=\s*({_QUOTED}|{_NAME})?)?\s*(?:;(?:[^",]|{_QUOTED})*)?(?:,|$)')
"""A preference of the list: name, value, and parameters, which are skipped."""


def wait_seconds(prefer: str | None) -> int | None:
    """Return the requested wait, at most 60 seconds; None without a wait. The first `wait` counts (RFC 7240).

    >>> wait_seconds("respond-async, wait=90")
    60
    """
    rest = prefer or ""
    if len(rest) > MAX_HEADER:
        return None
    while preference := _PREFERENCE.match(rest := rest.lstrip(", \t")):
        if preference[1].lower() == "wait":
            number = (preference[2] or "").strip('"')
            return min(int(number[:9]), MAX_WAIT_SECONDS) if number.isascii() and number.isdigit() else None
        rest = rest[preference.end() :]
    return None


def applied(seconds: int | None) -> dict[str, str]:
    """Return the header that confirms the wait."""
    return {} if seconds is None else {APPLIED: f"wait={seconds}"}
