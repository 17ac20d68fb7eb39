"""Samples and their statistics. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

MS = 1000.0
NOT_MEASURED = math.nan
"""Figure without samples. Every comparison with NaN is false, so such a figure meets no goal."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the percentile by nearest rank, which is always one of the samples; NOT_MEASURED without samples."""
    if not samples:
        return NOT_MEASURED
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[max(1, rank) - 1]


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 50)


@dataclass(slots=True)
class Samples:
    """Seconds of each successful request, the causes of the failures, and the wall time of all in seconds."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return len(self.seconds) / self.wall if self.wall else NOT_MEASURED

    @property
    def p50_ms(self) -> float:
        return median(self.seconds) * MS

    @property
    def p99_ms(self) -> float:
        return percentile(self.seconds, 99) * MS

    def __add__(self, other: Self) -> "Samples":
        """Return the samples of both, which were measured one after the other."""
        return Samples(self.seconds + other.seconds, self.failures + other.failures, self.wall + other.wall)
