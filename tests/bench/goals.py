"""What is to be reached: one goal a row of the table, in its order."""

from enum import StrEnum
from typing import NamedTuple


class Of(StrEnum):
    """What a goal bounds: the figure itself, or how it compares with the limit measured beside it."""

    FIGURE = "figure"
    RATIO = "ratio"


class Goal(NamedTuple):
    name: str
    unit: str
    bound: float
    of: Of = Of.FIGURE
    is_most: bool = True

    def is_met(self, figure: float, limit: float) -> bool:
        """Never by what was not measured, nor by what has nothing beside it."""
        value = figure if self.of is Of.FIGURE else figure / limit if limit else float("nan")
        return limit == limit and (value <= self.bound if self.is_most else value >= self.bound)  # noqa: PLR0124 - nan

    def __str__(self) -> str:
        what = "ratio " if self.of is Of.RATIO else ""
        unit = "" if self.of is Of.RATIO or not self.unit else f" {self.unit}"
        return f"{what}{'≤' if self.is_most else '≥'} {self.bound:g}{unit}"


ACCEPT_ONE = Goal("accept, one at a time: p50", "ms", 4)
ACCEPT_BUSY = Goal("accept, 300/s over 64 connections, 1,000 jobs queued: p99", "ms", 50)
TO_URL = Goal("time to URL, NodePort, one at a time: p50", "ms", 1.25, Of.RATIO)
CREATES = Goal("creates until URL, 50 at once, two workers", "/s", 0.9, Of.RATIO, is_most=False)
GET = Goal("GET by id, one API process, 32 at once", "/s", 0.7, Of.RATIO, is_most=False)
LIST = Goal("list of 1,000: p50", "ms", 25)
PAGE = Goal("page of 500 of 10,000: p50", "ms", 20)
GET_BESIDE = Goal("GET while pages are read: p99", "ms", 10)
OBSERVED = Goal("Ready in Kubernetes → in the record, 50 changes/s: p50", "ms", 10)
OBSERVED_TAIL = Goal("Ready in Kubernetes → in the record, 50 changes/s: p99", "ms", 50)
PICKED_UP = Goal("enqueued → a worker starts, idle system: p50", "ms", 5)
IDLE_CPU = Goal("idle worker that leads: share of a core", "%", 1)
IDLE_REDIS = Goal("idle worker that leads: Redis commands", "/s", 30)
WRITES = Goal("Kubernetes writes a sandbox, create to gone", "", 4)
API_MEMORY = Goal("API with 5,000 sandboxes, after lists: RSS", "MB", 120)
WORKER_MEMORY = Goal("leading worker with 5,000 sandboxes: RSS", "MB", 120)
REDIS_MEMORY = Goal("Redis, a sandbox of 5,000", "KB", 2)
SWEEP = Goal("sweep of 20 due, among 10,000 (limit: among 100): p50", "ms", 1.3, Of.RATIO)
SCRAPE = Goal("scrape, with 10,000 (limit: with 100): p50", "ms", 1.3, Of.RATIO)
EVENT = Goal("observer event → record, with 10,000 (limit: with 100): p50", "ms", 1.3, Of.RATIO)

ALL = tuple(each for each in globals().values() if isinstance(each, Goal))
