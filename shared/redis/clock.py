"""One time for all processes: Redis'. Hosts' clocks differ, and one sets the deadlines that another keeps."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch; tests own theirs."""

WINDOW_SECONDS = 10.0
"""For how long at least, and twice as long at most, what was heard counts."""
STEP_SECONDS = 1.0
"""What is later by more is believed at once: somebody may have set a clock back, and deadlines would come too early. If
the answer was only late, the next one shows it."""


class RedisClock:
    """This host's clock, set right by what Redis says in passing; before it has said anything, as it is.

    What Redis says is late when it comes, by milliseconds or more: what was lately heard with the least delay counts.
    """

    def __init__(self, host: Clock = time.time) -> None:
        self._host = host
        self._offsets: tuple[float, ...] = ()
        """How far ahead Redis is at least: by this window, and by the one before."""
        self._window_started = 0.0

    def __call__(self) -> float:
        return self._host() + max(self._offsets, default=0.0)

    def synchronize(self, redis_seconds: float) -> None:
        now = self._host()
        ahead = redis_seconds - now
        elapsed = now - self._window_started
        is_known = self._offsets and 0 <= elapsed < 2 * WINDOW_SECONDS
        if not is_known or ahead < max(self._offsets) - STEP_SECONDS:
            self._offsets, self._window_started = (ahead,), now
        elif elapsed < WINDOW_SECONDS:
            self._offsets = (max(self._offsets[0], ahead), *self._offsets[1:])
        else:
            self._offsets, self._window_started = (ahead, self._offsets[0]), now
