"""How long a caller is willing to wait: `Prefer: wait=N` (RFC 7240), or what today's client is known to bear."""

import re
from typing import Final

MAX_WAIT_SECONDS: Final = 60
HEADER: Final = "Prefer"
APPLIED: Final = "Preference-Applied"

COMPAT_CREATE_SECONDS: Final = 25.0
"""Today's client gives up a create after 30 s."""
COMPAT_READ_SECONDS: Final = 8.0
"""Today's client gives up a read after 10 s."""

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


def wait_seconds(prefer: str | None) -> int | None:
    """The wait asked for, at most 60; None when none is. What cannot be read is ignored, as RFC 7240 has it.

    >>> wait_seconds("respond-async, wait=90")
    60
    """
    found = _WAIT.search(prefer) if prefer else None
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else None


def applied(seconds: int | None) -> dict[str, str]:
    """The header that tells the caller that the wait was honoured."""
    return {} if seconds is None else {APPLIED: f"wait={seconds}"}
