"""The report as text, for people. Pure."""

import math
from collections.abc import Iterator, Sequence

from tests.bench.goals import ALL, Goal
from tests.bench.report import Report

_USED_HEAD = ("during", "process", "CPU s", "of a core", "CPU ms each", "RSS MB", "peak MB")
_HEAD = ("measured", "figure", "limit", "ratio", "p50", "p99", "goal", "met")


def rendered(report: Report) -> str:
    """The goals; what the processes used; what one sandbox costs; and what is to be known beside."""
    asked = [goal for goal in ALL if goal.name in report.findings or goal.name in report.missing]
    parts = [
        aligned([_HEAD, *(_row(report, goal) for goal in asked)]),
        aligned([_USED_HEAD, *_processes(report)]),
        aligned([("a sandbox, create to gone", "count"), *_per_sandbox(report)]),
        "\n".join([*_against(report), *report.notes]),
        f"{report.met} of {len(asked)} goals met",
    ]
    return "\n\n".join(part for part in parts if part)


def _row(report: Report, goal: Goal) -> tuple[str, ...]:
    found = report.findings.get(goal.name)
    if found is None:
        return (goal.name, *[""] * 5, str(goal), f"not made: {report.missing[goal.name]}")
    failed = ", ".join(f"{count} × {what}" for what, count in found.failures.items())
    met = "yes" if found.is_met else "no"
    return (
        goal.name,
        f"{number(found.figure)} {goal.unit}".strip(),
        number(found.limit),
        number(found.ratio),
        number(found.p50),
        number(found.p99),
        str(goal),
        f"{met}; FAILED: {failed}" if failed else met,
    )


def _processes(report: Report) -> Iterator[tuple[str, ...]]:
    for during, spent in report.spent.items():
        for name, used in spent.processes.items():
            share = used.cpu / spent.wall if spent.wall else math.nan
            each = number(1000 * used.cpu / spent.count) if spent.count > 1 else ""
            memory = f"{used.rss_mb:.0f}", f"{used.peak_mb:.0f}"
            yield during, name, f"{used.cpu:.2f}", f"{share:.0%}", each, *memory
            during = ""  # noqa: PLW2901 - said once


def _per_sandbox(report: Report) -> Iterator[tuple[str, ...]]:
    for what, count in report.per_sandbox.items():
        yield what, number(count)


def _against(report: Report) -> Iterator[str]:
    for goal in ALL:
        if (found := report.findings.get(goal.name)) is not None:
            yield f"limit of {goal.name.partition(':')[0]}: {found.against}"


def number(value: float | None) -> str:
    """Three digits that mean something; nothing for what there is not."""
    if value is None or math.isnan(value):
        return ""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Empty: there is but a head."""
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
