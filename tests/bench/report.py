"""What a run has found, as it finds it: whatever ends it early, what was measured until then is shown."""

from collections import Counter
from typing import Any

import msgspec

from tests.bench.figures import NOTHING, Taken, median
from tests.bench.goals import ALL, Goal
from tests.bench.meter import Spent


class Finding(msgspec.Struct, kw_only=True):
    """One goal's figure, and the same of what is measured beside it (`against` says what). Failures are requests."""

    goal: Goal
    figure: float
    limit: float
    against: str
    p50: float | None = None
    p99: float | None = None
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    details: dict[str, float] = {}

    @property
    def ratio(self) -> float:
        return self.figure / self.limit if self.limit else NOTHING

    @property
    def is_met(self) -> bool:
        """Not when a request failed: what is left is not what was to be measured."""
        return not self.failures and self.goal.is_met(self.figure, self.limit)


def of_times(goal: Goal, ours: Taken, limit: Taken, against: str) -> Finding:
    """The median of how long requests took."""
    return Finding(
        goal=goal,
        figure=ours.p50_ms,
        limit=limit.p50_ms,
        against=f"{against}: p50",
        p50=ours.p50_ms,
        p99=ours.p99_ms,
        failures=ours.failures + limit.failures,
        details={"limit_p99_ms": limit.p99_ms},
    )


def of_rates(goal: Goal, ours: list[Taken], limits: list[Taken], against: str) -> Finding:
    """The median of the rounds' rates; how long the requests of all of them took."""
    every, limit = sum(ours, Taken()), sum(limits, Taken())
    return Finding(
        goal=goal,
        figure=median([taken.rate for taken in ours]),
        limit=median([taken.rate for taken in limits]),
        against=f"{against}; medians of the rounds",
        p50=every.p50_ms,
        p99=every.p99_ms,
        failures=every.failures + limit.failures,
        details={"limit_p50_ms": limit.p50_ms, "limit_p99_ms": limit.p99_ms},
    )


class Report:
    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.missing: dict[str, str] = {}
        """By goal's name: why it could not be measured."""
        self.spent: dict[str, Spent] = {}
        """By measurement: what the processes used for it."""
        self.per_sandbox: dict[str, float] = {}
        """Redis commands, reads of its sockets, and calls to Kubernetes, from a create till it is gone."""
        self.notes: list[str] = []

    def add(self, finding: Finding) -> None:
        self.findings[finding.goal.name] = finding

    def miss(self, goals: tuple[Goal, ...], why: str) -> None:
        """Of those that have no finding yet."""
        self.missing.update({goal.name: why for goal in goals if goal.name not in self.findings})

    @property
    def met(self) -> int:
        return sum(finding.is_met for finding in self.findings.values())

    def as_json(self, machine: dict[str, Any]) -> bytes:
        """Numbers as measured; `met` null and `why` for what could not be."""
        return msgspec.json.format(
            msgspec.json.encode(
                {
                    "machine": machine,
                    "goals": [self._row(goal) for goal in ALL],
                    "per_sandbox": self.per_sandbox,
                    "spent": self.spent,
                    "notes": self.notes,
                }
            ),
            indent=1,
        )

    def _row(self, goal: Goal) -> dict[str, Any]:
        row: dict[str, Any] = {"name": goal.name, "goal": str(goal), "unit": goal.unit}
        found = self.findings.get(goal.name)
        if found is None:
            return {**row, "met": None, "why": self.missing.get(goal.name, "not asked for")}
        told = {name: getattr(found, name) for name in ("figure", "limit", "against", "ratio", "p50", "p99")}
        return {**row, **told, "failures": found.failures, "details": found.details, "met": found.is_met}
