"""How long a caller is willing to wait: `Prefer: wait=N` (RFC 7240), or what today's client is known to bear."""

import re
from typing import Final

MAX_WAIT_SECONDS: Final = 60
HEADER: Final = "Prefer"
MAX_HEADER: Final = 1000
"""Characters: what is longer is no list of preferences, and is not worth the time to read."""
APPLIED: Final = "Preference-Applied"

COMPAT_CREATE_SECONDS: Final = 25.0
"""Today's client gives up a create after 30 s."""
COMPAT_READ_SECONDS: Final = 8.0
"""Today's client gives up a read after 10 s."""

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf'\s*({_NAME})\s*(?:=\s*({_QUOTED}|{_NAME})?)?\s*(?:;(?:[^",]|{_QUOTED})*)?(?:,|$)')
"""One preference of the list: its name, its value, and parameters of its own, which are none of ours."""


def wait_seconds(prefer: str | None) -> int | None:
    """The wait asked for, at most 60 seconds; None when none is. The first counts, as RFC 7240 has it.

    >>> wait_seconds("respond-async, wait=90")
    60
    """
    rest = prefer or ""
    if len(rest) > MAX_HEADER:
        return None
    while found := _PREFERENCE.match(rest := rest.lstrip(", \t")):
        if found[1].lower() == "wait":
            number = (found[2] or "").strip('"')
            return min(int(number[:9]), MAX_WAIT_SECONDS) if number.isascii() and number.isdigit() else None
        rest = rest[found.end() :]
    return None


def applied(seconds: int | None) -> dict[str, str]:
    """The header that tells the caller that the wait was honoured."""
    return {} if seconds is None else {APPLIED: f"wait={seconds}"}
