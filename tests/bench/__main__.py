"""`python -m tests.bench`: measure the product and its limits in one run, and print a table; with --json also JSON."""

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
from tests.bench.system import LOG_LINES, Context
from tests.bench.table import render

DEFAULT_N = 200


class Measurement(NamedTuple):
    """`seconds` is the time limit with the default N, three times what is needed or more."""

    name: str
    measure: Callable[[Context], Awaitable[None]]
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="measure on this real cluster instead of an emulated one")
    parser.add_argument("--n", type=int, default=DEFAULT_N, help="scales all counts of requests (default %(default)s)")
    text = "milliseconds by which each call to the emulated cluster takes longer (default 0)"
    parser.add_argument("--call-ms", type=float, default=0.0, help=text)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    names = [measurement.name for measurement in MEASUREMENTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="only these measurements")
    return parser.parse_args()


async def run(context: Context, only: list[str]) -> bool:
    """Return True if every requested measurement was finished."""
    return all([await _measure(measurement, context) for measurement in MEASUREMENTS if measurement.name in only])


async def _measure(measurement: Measurement, context: Context) -> bool:
    """Run one measurement. An error appears in its rows, and the other measurements go on."""
    context.lines.clear()
    started_at = time.monotonic()
    limit = measurement.seconds * max(1.0, context.n / DEFAULT_N)
    is_finished = False
    try:
        async with asyncio.timeout(limit):
            await measurement.measure(context)
        is_finished = True
    except Exception as error:  # noqa: BLE001 - see the docstring
        is_late = isinstance(error, TimeoutError) and time.monotonic() - started_at >= limit
        reason = f"not within {limit:.0f} s" if is_late else f"{type(error).__name__}: {error}"
        context.report.miss(measurement.goals, reason)
        _print_progress(*context.lines, f"{measurement.name}: {reason}")
    _print_progress(f"{measurement.name}: {time.monotonic() - started_at:.0f} s")
    return is_finished


def _print_progress(*lines: str) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Print the report. The exit code is 0 if all was measured and no request failed, whether goals are met or not."""
    arguments = parse_arguments()
    before, started_at = machine(), time.monotonic()
    context = Context(
        max(1, arguments.n), arguments.kubeconfig, Report(), deque(maxlen=LOG_LINES), arguments.call_ms / 1000
    )
    is_finished = uvloop.run(run(context, arguments.only))
    about = {
        **before,
        "load_after": machine()["load"],
        "seconds": round(time.monotonic() - started_at),
        "n": context.n,
        "call_ms": arguments.call_ms,
        "real_cluster": not context.is_emulated,
    }
    sys.stdout.write(f"{render(context.report)}\n\n{about}\n")
    if arguments.json:
        arguments.json.write_bytes(context.report.as_json(about))
    has_failures = any(finding.failures for finding in context.report.findings.values())
    sys.exit(0 if is_finished and not has_failures else 1)


if __name__ == "__main__":
    main()
