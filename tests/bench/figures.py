"""Samples and what they come to. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

MS = 1000.0
NOTHING = math.nan
"""Of what was not measured: no number, and no comparison with it holds."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """By nearest rank: always one of the samples. NOTHING of none."""
    if not samples:
        return NOTHING
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[max(1, rank) - 1]


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 50)


@dataclass(slots=True)
class Taken:
    """What came of some requests: seconds of each that went well, what became of the others, and the time of all."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """That went well, per second."""
        return len(self.seconds) / self.wall if self.wall else NOTHING

    @property
    def p50_ms(self) -> float:
        return median(self.seconds) * MS

    @property
    def p99_ms(self) -> float:
        return percentile(self.seconds, 99) * MS

    def __add__(self, other: Self) -> "Taken":
        """Those of both, one after the other."""
        return Taken(self.seconds + other.seconds, self.failures + other.failures, self.wall + other.wall)
