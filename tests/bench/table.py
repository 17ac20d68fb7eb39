"""The report as a text for people. Pure."""

import math
from collections.abc import Iterator, Sequence

from tests.bench.goals import ALL, Goal
from tests.bench.report import Report

_USAGE_HEAD = ("during", "process", "CPU s", "of a core", "CPU ms each", "RSS MB", "peak MB")
_HEAD = ("measured", "figure", "limit", "ratio", "p50", "p99", "goal", "met")


def render(report: Report) -> str:
    """Return four parts: goals, what the processes used, what one sandbox costs, and explanations of the limits."""
    goals = [goal for goal in ALL if goal.name in report.findings or goal.name in report.missing]
    parts = [
        align([_HEAD, *(_row(report, goal) for goal in goals)]),
        align([_USAGE_HEAD, *_usage_rows(report)]),
        align([("a sandbox, create to gone", "count"), *_per_sandbox_rows(report)]),
        "\n".join([*_limit_lines(report), *report.notes]),
        f"{report.met} of {len(goals)} goals met",
    ]
    return "\n\n".join(part for part in parts if part)


def _row(report: Report, goal: Goal) -> tuple[str, ...]:
    finding = report.findings.get(goal.name)
    if finding is None:
        return (goal.name, *[""] * 5, str(goal), f"not measured: {report.missing[goal.name]}")
    failures = ", ".join(f"{count} × {cause}" for cause, count in finding.failures.items())
    met = "yes" if finding.is_met else "no"
    return (
        goal.name,
        f"{number(finding.figure)} {goal.unit}".strip(),
        number(finding.limit),
        number(finding.ratio),
        number(finding.p50),
        number(finding.p99),
        str(goal),
        f"{met}; FAILED: {failures}" if failures else met,
    )


def _usage_rows(report: Report) -> Iterator[tuple[str, ...]]:
    for measurement, usage in report.usage.items():
        for position, (name, process) in enumerate(usage.processes.items()):
            share = process.cpu / usage.wall if usage.wall else math.nan
            each = number(1000 * process.cpu / usage.count) if usage.count > 1 else ""
            memory = f"{process.rss_mb:.0f}", f"{process.peak_mb:.0f}"
            yield "" if position else measurement, name, f"{process.cpu:.2f}", f"{share:.0%}", each, *memory


def _per_sandbox_rows(report: Report) -> Iterator[tuple[str, ...]]:
    for name, count in report.per_sandbox.items():
        yield name, number(count)


def _limit_lines(report: Report) -> Iterator[str]:
    for goal in ALL:
        if (finding := report.findings.get(goal.name)) is not None:
            yield f"limit of {goal.name.partition(':')[0]}: {finding.limit_description}"


def number(value: float | None) -> str:
    """Return three significant digits; an empty string for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as columns below a head; an empty string if there is only a head."""
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
