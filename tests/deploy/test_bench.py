"""What `make bench` says of what it has measured: its arithmetic, and that it claims nothing that it did not see."""

import math
from collections import Counter

import msgspec
import pytest

from tests.bench.figures import Taken, median, percentile
from tests.bench.goals import ALL, CREATES, TO_URL, WRITES
from tests.bench.machine import Busy, busy
from tests.bench.meter import Reading, Spent, Used, spent
from tests.bench.report import Finding, Report
from tests.bench.scaling import Round, table
from tests.bench.table import number, rendered


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (99, 4.0), (1, 1.0), (75, 3.0), (100, 4.0)], ids=str)
def test_percentile(percent: float, expected: float):
    """Always one of the samples, whatever their order."""
    assert percentile([3.0, 1.0, 4.0, 2.0], percent) == expected


def test_nothing_measured():
    """No samples give no number, and none meets a goal."""
    assert math.isnan(median([]))
    assert not WRITES.is_met(median([]), 3.0)
    assert math.isnan(Taken().rate)


def test_rate():
    """Only what went well counts, over the time of all."""
    first = Taken([0.1, 0.1], Counter({"500": 1}), 1.0)
    both = first + Taken([0.3], Counter(), 2.0)
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
def test_goal(goal, figure: float, limit: float, is_met: bool):
    """A goal bounds the figure or its ratio to the limit; without a limit it is not met."""
    assert goal.is_met(figure, limit) is is_met


def test_failed_requests():
    """A figure with failed requests meets nothing, and the table shows them."""
    report = Report()
    report.add(Finding(goal=WRITES, figure=1.0, limit=3.0, against="by hand", failures=Counter({"503 away": 2})))
    assert report.met == 0
    assert "no; FAILED: 2 × 503 away" in rendered(report)


def test_not_made():
    """What could not be measured says why, in the table and in JSON; a goal that has its figure keeps it."""
    report = Report()
    report.add(Finding(goal=WRITES, figure=4.0, limit=3.0, against="by hand"))
    report.miss((WRITES, TO_URL), "not within 9 s")
    assert "not made: not within 9 s" in rendered(report)
    assert "1 of 2 goals met" in rendered(report)
    rows = {row["name"]: row for row in msgspec.json.decode(report.as_json({}))["goals"]}
    assert len(rows) == len(ALL)
    assert (rows[WRITES.name]["met"], rows[TO_URL.name]["met"]) == (True, None)
    assert rows[TO_URL.name]["why"] == "not within 9 s"


def test_spent():
    """Differences of two readings; a process that has begun in between counts from its beginning, the bench's own
    reads of Redis do not."""
    before = Reading(1.0, {"api": Used(2.0, 50, 50)}, Counter(get=5), 10, Counter({"create pods": 1}), 3)
    now = {"api": Used(2.5, 60, 70), "worker": Used(1.0, 80, 80)}
    after = Reading(3.0, now, Counter(get=9, set=1), 20, Counter({"create pods": 3, "get pods": 7}), 5)
    seen = spent(before, after)
    assert seen.processes == {"api": Used(0.5, 60, 70), "worker": Used(1.0, 80, 80)}
    assert (seen.wall, seen.redis_commands, seen.reads, seen.kubernetes_writes) == (2.0, 5, 8, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0"), (None, ""), (math.nan, "")],
)
def test_number(value: float | None, text: str):
    """Three digits that mean something."""
    assert number(value) == text


def test_scaling_compares_medians_with_one_workers():
    """Of rounds in turn, without those that others' work has spoiled; or of all, if it was so in each."""

    def made(rate: float, busy: float = 0.1) -> Round:
        return Round(rate, Spent(10.0, {"worker-1": Used(1.0, 0, 0)}, Counter(), 0, Counter(), count=100), busy)

    two, four = [made(18), made(2, busy=0.9), made(17)], [made(20, busy=1.0)]
    _, _, *rows = table({1: [made(9), made(8), made(9)], 2: two, 4: four}, 1).splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["1", "9.0", "1.00", "times"],
        ["2", "17.0", "1.89", "times"],
        ["4", "20.0", "2.22", "times"],
    ]
    assert "10.0" in rows[0].split(), "CPU milliseconds a create"
    assert ", 2.0 (" in rows[1], "all are shown"


def test_busy():
    assert Busy(150, 400).since(Busy(100, 200)) == 0.25
    assert busy().worked <= busy().gone_by
