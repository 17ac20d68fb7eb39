"""Findings of a run. They are added one by one, so a run that ends early shows what was measured until then."""

from collections import Counter
from typing import Any

import msgspec

from tests.bench.figures import NOT_MEASURED, Samples, median
from tests.bench.goals import ALL, Goal
from tests.bench.meter import Usage


class Finding(msgspec.Struct, kw_only=True):
    """The figure of one goal, and the limit beside it, which `limit_description` explains. Failures are requests."""

    goal: Goal
    figure: float
    limit: float
    limit_description: str
    p50: float | None = None
    p99: float | None = None
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    details: dict[str, float] = {}

    @property
    def ratio(self) -> float:
        return self.figure / self.limit if self.limit else NOT_MEASURED

    @property
    def is_met(self) -> bool:
        """False after a failed request: the other requests are not the load that was to be measured."""
        return not self.failures and self.goal.is_met(self.figure, self.limit)


def finding_of_times(goal: Goal, product: Samples, limit: Samples, limit_description: str) -> Finding:
    """Compare the median times of requests."""
    return Finding(
        goal=goal,
        figure=product.p50_ms,
        limit=limit.p50_ms,
        limit_description=f"{limit_description}: p50",
        p50=product.p50_ms,
        p99=product.p99_ms,
        failures=product.failures + limit.failures,
        details={"limit_p99_ms": limit.p99_ms},
    )


def finding_of_rates(goal: Goal, product: list[Samples], limits: list[Samples], limit_description: str) -> Finding:
    """Compare the median rates of rounds. The percentiles are those of the requests of all rounds."""
    total, limit = sum(product, Samples()), sum(limits, Samples())
    return Finding(
        goal=goal,
        figure=median([samples.rate for samples in product]),
        limit=median([samples.rate for samples in limits]),
        limit_description=f"{limit_description}; medians of the rounds",
        p50=total.p50_ms,
        p99=total.p99_ms,
        failures=total.failures + limit.failures,
        details={"limit_p50_ms": limit.p50_ms, "limit_p99_ms": limit.p99_ms},
    )


class Report:
    """All findings of a run.

    `missing` holds for each goal's name why the goal could not be measured. `usage` holds for each measurement what the
    processes used. `per_sandbox` counts Redis commands, reads of Redis' sockets and calls to Kubernetes, from a create
    until the sandbox is gone.
    """

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.missing: dict[str, str] = {}
        self.usage: dict[str, Usage] = {}
        self.per_sandbox: dict[str, float] = {}
        self.notes: list[str] = []

    def add(self, finding: Finding) -> None:
        self.findings[finding.goal.name] = finding

    def miss(self, goals: tuple[Goal, ...], reason: str) -> None:
        """Note why goals could not be measured. A goal that has a finding keeps it."""
        self.missing.update({goal.name: reason for goal in goals if goal.name not in self.findings})

    @property
    def met(self) -> int:
        return sum(finding.is_met for finding in self.findings.values())

    def as_json(self, machine: dict[str, Any]) -> bytes:
        """Return the report with unrounded numbers. A goal that was not measured has `met` null and a `reason`."""
        return msgspec.json.format(
            msgspec.json.encode(
                {
                    "machine": machine,
                    "goals": [self._row(goal) for goal in ALL],
                    "per_sandbox": self.per_sandbox,
                    "usage": self.usage,
                    "notes": self.notes,
                }
            ),
            indent=1,
        )

    def _row(self, goal: Goal) -> dict[str, Any]:
        row: dict[str, Any] = {"name": goal.name, "goal": str(goal), "unit": goal.unit}
        finding = self.findings.get(goal.name)
        if finding is None:
            return {**row, "met": None, "reason": self.missing.get(goal.name, "not requested")}
        names = ("figure", "limit", "limit_description", "ratio", "p50", "p99", "failures", "details")
        return {**row, **{name: getattr(finding, name) for name in names}, "met": finding.is_met}
