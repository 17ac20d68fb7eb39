"""Redis' time as the common time of all processes. Clocks of hosts differ, and deadlines pass between processes."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since the epoch. Tests pass their own clocks."""

WINDOW_SECONDS = 10.0
"""Length of the sampling window. A sample is used for one to two windows."""
STEP_SECONDS = 1.0
"""Largest delay of a sample. A sample that is later replaces the estimate at once, because the Redis clock was probably
set back. If only the reply was late, the next sample corrects the estimate."""


class RedisClock:
    """The host's clock, corrected by samples of Redis' time. Without a sample, the host's clock is used.

    Each sample is late by the delay of its reply. The sample with the smallest delay in the last windows counts.
    """

    def __init__(self, host: Clock = time.time) -> None:
        self._host = host
        self._offsets: tuple[float, ...] = ()
        """Largest offset of Redis' clock in this window, and in the window before."""
        self._window_started = 0.0

    def __call__(self) -> float:
        return self._host() + max(self._offsets, default=0.0)

    def synchronize(self, redis_seconds: float) -> None:
        """Add a sample: Redis' time in seconds since the epoch, read just now."""
        now = self._host()
        offset = redis_seconds - now
        elapsed = now - self._window_started
        is_known = self._offsets and 0 <= elapsed < 2 * WINDOW_SECONDS
        if not is_known or offset < max(self._offsets) - STEP_SECONDS:
            self._offsets, self._window_started = (offset,), now
        elif elapsed < WINDOW_SECONDS:
            self._offsets = (max(self._offsets[0], offset), *self._offsets[1:])
        else:
            self._offsets, self._window_started = (offset, self._offsets[0]), now
