"""One time for all processes: Redis'. Hosts' clocks differ, and one sets the deadlines that another keeps."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch; tests own theirs."""


class RedisClock:
    """This host's clock, set right by what Redis says in passing; before it has said anything, as it is."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def hear(self, redis_seconds: float) -> None:
        self._ahead = redis_seconds - time.time()
