"""Judges refusals for missing rights over time: one 401 or 403 may be a token or a Role that is being replaced."""

import time
from collections.abc import Callable

LASTING_SECONDS = 60.0
"""Time for which the API server must refuse without a break before the refusal is final. Files of tokens are read again
within this time, and a changed Role reaches each API server within seconds."""
GAP_SECONDS = 60.0
"""Maximum time between two refusals of one series. A job is tried every ten seconds, by whichever worker is free."""


class Denials:
    """Remembers since when each kind of call, such as `create pods`, is refused to this client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._series: dict[str, tuple[float, float]] = {}

    def refuse(self, kind: str) -> bool:
        """Note a refusal. Return True if this kind of call has been refused for LASTING_SECONDS."""
        now = self._clock()
        since, last = self._series.get(kind, (now, now))
        if now - last > GAP_SECONDS:
            since = now
        self._series[kind] = since, now
        return now - since >= LASTING_SECONDS

    def accept(self, kind: str) -> None:
        """End the series of refusals of this kind of call."""
        self._series.pop(kind, None)
