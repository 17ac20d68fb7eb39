"""The report of `make bench`: its arithmetic, and the verdicts without a measurement."""

import math
from collections import Counter

import msgspec
import pytest

from tests.bench.figures import Samples, median, percentile
from tests.bench.goals import ALL, CREATES, TO_URL, WRITES
from tests.bench.machine import CpuTicks, cpu_ticks
from tests.bench.meter import ProcessUsage, Reading, Usage, usage_between
from tests.bench.report import Finding, Report
from tests.bench.scaling import Round, table
from tests.bench.table import number, render


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (99, 4.0), (1, 1.0), (75, 3.0), (100, 4.0)], ids=str)
def test_percentile_is_one_of_the_samples(percent: float, expected: float):
    assert percentile([3.0, 1.0, 4.0, 2.0], percent) == expected


def test_goal_without_samples_is_not_met():
    assert math.isnan(median([]))
    assert not WRITES.is_met(median([]), 3.0)
    assert math.isnan(Samples().rate)


def test_rate_counts_successful_requests_over_the_whole_time():
    first = Samples([0.1, 0.1], Counter({"500": 1}), 1.0)
    both = first + Samples([0.3], Counter(), 2.0)
    assert (both.rate, both.p50_ms, both.failures) == (1.0, 100.0, Counter({"500": 1}))


@pytest.mark.parametrize(
    ("goal", "figure", "limit", "is_met"),
    [
        (WRITES, 4.0, 3.0, True),
        (WRITES, 4.1, 3.0, False),
        (TO_URL, 12.5, 10.0, True),
        (TO_URL, 12.6, 10.0, False),
        (CREATES, 90.0, 100.0, True),
        (CREATES, 89.0, 100.0, False),
        (CREATES, 90.0, 0.0, False),
        (WRITES, 1.0, math.nan, False),
    ],
)
def test_goal_bounds_the_figure_or_its_ratio_to_the_limit(goal, figure: float, limit: float, is_met: bool):
    """Without a limit the goal is not met."""
    assert goal.is_met(figure, limit) is is_met


def test_figure_with_failed_requests_meets_no_goal_and_shows_them():
    report = Report()
    report.add(
        Finding(goal=WRITES, figure=1.0, limit=3.0, limit_description="by hand", failures=Counter({"503 away": 2}))
    )
    assert report.met == 0
    assert "no; FAILED: 2 × 503 away" in render(report)


def test_missing_measurement_shows_its_reason_in_table_and_json():
    """A goal that has a figure keeps it."""
    report = Report()
    report.add(Finding(goal=WRITES, figure=4.0, limit=3.0, limit_description="by hand"))
    report.miss((WRITES, TO_URL), "not within 9 s")
    assert "not measured: not within 9 s" in render(report)
    assert "1 of 2 goals met" in render(report)
    rows = {row["name"]: row for row in msgspec.json.decode(report.as_json({}))["goals"]}
    assert len(rows) == len(ALL)
    assert (rows[WRITES.name]["met"], rows[TO_URL.name]["met"]) == (True, None)
    assert rows[TO_URL.name]["reason"] == "not within 9 s"


def test_usage_is_the_difference_of_two_readings():
    """A process that started in between counts from its start. The benchmark's own reads of Redis do not count."""
    before = Reading(1.0, {"api": ProcessUsage(2.0, 50, 50)}, Counter(get=5), 10, Counter({"create pods": 1}), 3)
    now = {"api": ProcessUsage(2.5, 60, 70), "worker": ProcessUsage(1.0, 80, 80)}
    after = Reading(3.0, now, Counter(get=9, set=1), 20, Counter({"create pods": 3, "get pods": 7}), 5)
    difference = usage_between(before, after)
    assert difference.processes == {"api": ProcessUsage(0.5, 60, 70), "worker": ProcessUsage(1.0, 80, 80)}
    assert (difference.wall, difference.redis_commands, difference.reads, difference.kubernetes_writes) == (
        2.0,
        5,
        8,
        2,
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0"), (None, ""), (math.nan, "")],
)
def test_number_has_three_significant_digits(value: float | None, text: str):
    assert number(value) == text


def test_scaling_compares_medians_with_those_of_one_worker():
    """Rounds on a busy machine do not count, unless all rounds were."""

    def round_of(rate: float, busy: float = 0.1) -> Round:
        return Round(rate, Usage(10.0, {"worker-1": ProcessUsage(1.0, 0, 0)}, Counter(), 0, Counter(), count=100), busy)

    two, four = [round_of(18), round_of(2, busy=0.9), round_of(17)], [round_of(20, busy=1.0)]
    _, _, *rows = table({1: [round_of(9), round_of(8), round_of(9)], 2: two, 4: four}, 1).splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["1", "9.0", "1.00", "times"],
        ["2", "17.0", "1.89", "times"],
        ["4", "20.0", "2.22", "times"],
    ]
    assert "10.0" in rows[0].split(), "CPU milliseconds a create"
    assert ", 2.0 (" in rows[1], "the table shows all rounds"


def test_busy_is_a_share_of_the_elapsed_time():
    assert CpuTicks(150, 400).busy_share_since(CpuTicks(100, 200)) == 0.25
    assert cpu_ticks().busy <= cpu_ticks().elapsed
