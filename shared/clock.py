"""One time for all processes: Redis'. Hosts' clocks differ, and one sets the deadlines that another keeps."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch; tests own theirs."""


DRIFT = 0.0005
"""By how much hosts' clocks may go apart, seconds a second: five times what good ones do."""
STEP_SECONDS = 1.0
"""What is more was not drift, but somebody who set a clock."""


class RedisClock:
    """This host's clock, set right by what Redis says in passing; before it has said anything, as it is.

    What Redis says is late when it comes, by milliseconds or by a second: what was heard with the least delay counts,
    until it is too old.
    """

    def __init__(self, host: Clock = time.time) -> None:
        self._host = host
        self._ahead: float | None = None
        self._heard_at = 0.0

    def __call__(self) -> float:
        return self._host() + (self._ahead or 0.0)

    def hear(self, redis_seconds: float) -> None:
        now = self._host()
        ahead, least = redis_seconds - now, self._least(now)
        if least is None or not least - STEP_SECONDS <= ahead <= least:
            self._ahead, self._heard_at = ahead, now

    def _least(self, now: float) -> float | None:
        """How far ahead Redis is at least, by what was heard before."""
        return None if self._ahead is None else self._ahead - DRIFT * abs(now - self._heard_at)
