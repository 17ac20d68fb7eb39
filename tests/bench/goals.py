"""Goals of the benchmark: each is a row of the table, in this order."""

from enum import StrEnum
from typing import NamedTuple


class Basis(StrEnum):
    """Value that a goal bounds: the figure itself, or its ratio to the limit that is measured beside it."""

    FIGURE = "figure"
    RATIO = "ratio"


class Goal(NamedTuple):
    name: str
    unit: str
    bound: float
    basis: Basis = Basis.FIGURE
    is_maximum: bool = True

    def is_met(self, figure: float, limit: float) -> bool:
        """Return True if the value keeps the bound. Without a figure, or without a limit, the goal is not met."""
        value = figure if self.basis is Basis.FIGURE else figure / limit if limit else float("nan")
        is_kept = value <= self.bound if self.is_maximum else value >= self.bound
        return limit == limit and is_kept  # noqa: PLR0124 - NaN is not equal to itself

    def __str__(self) -> str:
        prefix = "ratio " if self.basis is Basis.RATIO else ""
        unit = "" if self.basis is Basis.RATIO or not self.unit else f" {self.unit}"
        return f"{prefix}{'≤' if self.is_maximum else '≥'} {self.bound:g}{unit}"


ACCEPT_ONE = Goal("accept, one at a time: p50", "ms", 4)
ACCEPT_BUSY = Goal("accept, 300/s over 64 connections, 1,000 jobs queued: p99", "ms", 50)
TO_URL = Goal("time to URL, NodePort, one at a time: p50", "ms", 1.25, Basis.RATIO)
CREATES = Goal("creates until URL, 50 at once, two workers", "/s", 0.9, Basis.RATIO, is_maximum=False)
GET = Goal("GET by id, one API process, 32 at once", "/s", 0.7, Basis.RATIO, is_maximum=False)
LIST = Goal("list of 1,000: p50", "ms", 25)
PAGE = Goal("page of 500 of 10,000: p50", "ms", 20)
GET_BESIDE_LISTS = Goal("GET while pages are read: p99", "ms", 10)
READY = Goal("Ready in Kubernetes → in the record, 50 changes/s: p50", "ms", 10)
READY_TAIL = Goal("Ready in Kubernetes → in the record, 50 changes/s: p99", "ms", 50)
PICKUP = Goal("enqueued → a worker starts, idle system: p50", "ms", 5)
IDLE_CPU = Goal("idle worker that leads: share of a core", "%", 1)
IDLE_REDIS = Goal("idle worker that leads: Redis commands", "/s", 30)
WRITES = Goal("Kubernetes writes a sandbox, create to gone", "", 4)
API_MEMORY = Goal("API with 5,000 sandboxes, after lists: RSS", "MB", 120)
WORKER_MEMORY = Goal("leading worker with 5,000 sandboxes: RSS", "MB", 120)
REDIS_MEMORY = Goal("Redis, a sandbox of 5,000", "KB", 2)
SWEEP = Goal("sweep of 20 due, among 10,000 (limit: among 100): p50", "ms", 1.3, Basis.RATIO)
SCRAPE = Goal("scrape, with 10,000 (limit: with 100): p50", "ms", 1.3, Basis.RATIO)
EVENT = Goal("watch event → record, with 10,000 (limit: with 100): p50", "ms", 1.3, Basis.RATIO)

ALL = tuple(each for each in globals().values() if isinstance(each, Goal))
