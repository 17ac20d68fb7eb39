"""`python -m tests.bench`: the product beside its limits, in one run; a table, and JSON."""

import argparse
import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import uvloop

from tests.bench import accept, create, idle, listing, memory, observing, pickup, reading, sweeping
from tests.bench.goals import Goal
from tests.bench.machine import machine
from tests.bench.report import Report
from tests.bench.system import LINES_KEPT, Given
from tests.bench.table import rendered

DEFAULT_N = 200


class Measurement(NamedTuple):
    """`seconds`: with the default N it takes a third of it or less; what takes longer is not made."""

    name: str
    measure: Callable[[Given], Awaitable[None]]
    goals: tuple[Goal, ...]
    seconds: float


MEASUREMENTS = (
    Measurement("accept", accept.measure, accept.GOALS, 90),
    Measurement("create", create.measure, create.GOALS, 180),
    Measurement("reading", reading.measure, reading.GOALS, 90),
    Measurement("listing", listing.measure, listing.GOALS, 120),
    Measurement("observing", observing.measure, observing.GOALS, 90),
    Measurement("pickup", pickup.measure, pickup.GOALS, 120),
    Measurement("idle", idle.measure, idle.GOALS, 90),
    Measurement("memory", memory.measure, memory.GOALS, 180),
    Measurement("sweeping", sweeping.measure, sweeping.GOALS, 150),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="measure against this real cluster, not an emulated one")
    parser.add_argument("--n", type=int, default=DEFAULT_N, help="scales all counts of requests (default %(default)s)")
    text = "the emulated cluster takes so many milliseconds longer for each call, as a real one does (default 0)"
    parser.add_argument("--call-ms", type=float, default=0.0, help=text)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    names = [measurement.name for measurement in MEASUREMENTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="these measurements only")
    return parser.parse_args()


async def run(given: Given, only: list[str]) -> bool:
    """Whether every one could be made."""
    return all([await _measure(measurement, given) for measurement in MEASUREMENTS if measurement.name in only])


async def _measure(measurement: Measurement, given: Given) -> bool:
    """Whatever goes wrong is this measurement's, and said in its rows; the others are made."""
    given.lines.clear()
    began = time.monotonic()
    limit = measurement.seconds * max(1.0, given.n / DEFAULT_N)
    is_made = False
    try:
        async with asyncio.timeout(limit):
            await measurement.measure(given)
        is_made = True
    except Exception as error:  # noqa: BLE001 - as above
        late = isinstance(error, TimeoutError) and time.monotonic() - began >= limit
        why = f"not within {limit:.0f} s" if late else f"{type(error).__name__}: {error}"
        given.report.miss(measurement.goals, why)
        _tell(*given.lines, f"{measurement.name}: {why}")
    _tell(f"{measurement.name}: {time.monotonic() - began:.0f} s")
    return is_made


def _tell(*lines: str) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Exits 0 when every measurement was made and no request failed in it, whether its goal is met or not."""
    asked = arguments()
    before, began = machine(), time.monotonic()
    given = Given(max(1, asked.n), asked.kubeconfig, Report(), deque(maxlen=LINES_KEPT), asked.call_ms / 1000)
    is_made = uvloop.run(run(given, asked.only))
    about = {
        **before,
        "load_after": machine()["load"],
        "seconds": round(time.monotonic() - began),
        "n": given.n,
        "call_ms": asked.call_ms,
        "real_cluster": not given.is_emulated,
    }
    sys.stdout.write(f"{rendered(given.report)}\n\n{about}\n")
    if asked.json:
        asked.json.write_bytes(given.report.as_json(about))
    failed = any(finding.failures for finding in given.report.findings.values())
    sys.exit(0 if is_made and not failed else 1)


if __name__ == "__main__":
    main()
