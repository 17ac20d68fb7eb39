"""`python -m tests.bench.scaling`: creates a second with one, two and four workers, while the cores are not the limit.

Each call to the emulated cluster takes 50 ms longer, and each worker runs one job at a time. So a worker mostly waits,
as it does before a real cluster, and workers do not compete for the cores of this machine.
"""

import argparse
import asyncio
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import uvloop

from deploy.local.processes import Process
from shared.store import keys
from tests.bench.figures import median
from tests.bench.load import closed_loop, expect_status
from tests.bench.machine import cpu_ticks, machine
from tests.bench.meter import Usage
from tests.bench.report import Report
from tests.bench.system import LARGE_LIMIT, LOG_LINES, Context, System, open_system
from tests.bench.table import align

CALL_SECONDS = 0.05
CALLS = 2
"""Calls of one create, in sequence: Pod and Service."""
WORKER_COUNTS = (1, 2, 4)
SECONDS = 8.0
"""Time of the work that each worker gets. The sweep would enqueue a job again that waits much longer."""
POLL_SECONDS = 0.5
ROUND_SECONDS = 90.0
MAX_OTHERS_SHARE = 0.25
"""Share of all cores that other processes may use. A round with more than that measures those processes."""
HEAD = ("workers", "creates/s", "one worker's", "at most", "CPU ms a create", "CPU", "each round (CPU of others)")


class Round(NamedTuple):
    """`rate` is in sandboxes a second. `busy` is the share of all cores that any process of the machine used."""

    rate: float
    usage: Usage
    busy: float

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes of the run."""
        return sum(process.cpu for process in self.usage.processes.values())

    @property
    def share(self) -> float:
        """Share of all cores that the processes of the run used."""
        return self.cpu / self.usage.wall / int(machine()["cores"])

    @property
    def others_share(self) -> float:
        return max(0.0, self.busy - self.share)

    @property
    def is_calm(self) -> bool:
        return self.others_share <= MAX_OTHERS_SHARE


async def measure(workers: int, jobs: int) -> Round:
    """Measure one round.

    Raises:
        RuntimeError: a create was refused, or has no URL.
        TimeoutError: the round took longer than ROUND_SECONDS.
    """
    context = Context(0, None, Report(), deque(maxlen=LOG_LINES), CALL_SECONDS)
    async with (
        asyncio.timeout(ROUND_SECONDS),
        open_system(context, workers=workers, WORKER_MAX_JOBS=str(jobs), **LARGE_LIMIT) as system,
    ):
        await _warm_up(system, workers)
        ids = [f"s{number:06}" for number in range(round(SECONDS * workers * jobs / (CALLS * CALL_SECONDS)))]
        with _frozen(system.stack.workers):
            await _create(system, ids)
            before, ticks_before = await system.meter.read(), cpu_ticks()
        await _until_queue_is_empty(system)
        usage = await system.meter.since(before, len(ids))
        return Round(await _rate(system, ids), usage, cpu_ticks().busy_share_since(ticks_before))


async def _warm_up(system: System, workers: int) -> None:
    """Wait for all workers, and create a few sandboxes: namespace, connections and scripts then exist."""
    while await system.redis.zcard(keys.WORKERS) < workers:
        await asyncio.sleep(POLL_SECONDS)
    await _create(system, [f"warm{number}" for number in range(4 * workers)])
    await _until_queue_is_empty(system)


@contextmanager
def _frozen(workers: Sequence[Process]) -> Iterator[None]:
    """Stop the workers, so that all start at once when all of their work is in the queue."""
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.signal(signal.SIGCONT)


async def _create(system: System, ids: Sequence[str]) -> None:
    async def send(number: int) -> None:
        body = f'{{"sandbox_id": "{ids[number]}"}}'.encode()
        expect_status(await system.api.request("POST", "/api/sandboxes", body), 202)

    samples = await closed_loop(send, len(ids), 16)
    if samples.failures:
        raise RuntimeError(f"not accepted: {dict(samples.failures)}")


async def _until_queue_is_empty(system: System) -> None:
    """Wait until no job is left. A job stays in the queue while it runs or waits for its next try."""
    while await system.redis.zcard(keys.QUEUE):
        await asyncio.sleep(POLL_SECONDS)


async def _rate(system: System, ids: Sequence[str]) -> float:
    """Return creates a second by the records' own timestamps: from the first start of a job to the last URL."""
    timings = [record.timings for record in await system.records(list(ids)) if record is not None]
    queued = [each.queued for each in timings if each.queued is not None]
    created = [each.created for each in timings if each.created is not None]
    if len(created) < len(ids):
        raise RuntimeError(f"{len(created)} of {len(ids)} have a URL; last log lines: {list(system.context.lines)}")
    return len(ids) / (max(created) - min(queued))


def table(rounds: dict[int, list[Round]], jobs: int) -> str:
    """Return the table of all rounds, which are grouped by the number of workers."""
    one_worker = _median_rate(rounds[WORKER_COUNTS[0]])
    return align([HEAD, *(_row(workers, group, one_worker, jobs) for workers, group in rounds.items())])


def _row(workers: int, rounds: Sequence[Round], one_worker: float, jobs: int) -> tuple[str, ...]:
    rate, counted = _median_rate(rounds), _calm(rounds)
    return (
        str(workers),
        f"{rate:.1f}",
        f"{rate / one_worker:.2f} times",
        f"{workers * jobs / (CALLS * CALL_SECONDS):.0f}",
        f"{median([each.cpu * 1000 / each.usage.count for each in counted]):.1f}",
        f"{median([each.share for each in counted]):.0%}",
        ", ".join(f"{each.rate:.1f} ({each.others_share:.0%})" for each in rounds),
    )


def _median_rate(rounds: Sequence[Round]) -> float:
    return median([each.rate for each in _calm(rounds)])


def _calm(rounds: Sequence[Round]) -> Sequence[Round]:
    """Return the rounds that count: the calm ones, or all if no round was calm."""
    return [each for each in rounds if each.is_calm] or rounds


def explanation(rounds: int, jobs: int) -> str:
    """Return the text below the table."""
    return f"""\
creates/s: median of {rounds} rounds, in turn with the others. Rounds in which other processes used more than
  {MAX_OTHERS_SHARE:.0%} of all cores do not count, unless all did. By the records' own timestamps, from the first start
  of a job to the last URL. {SECONDS:g} s of work for each worker was in the queue before any worker started.
at most: {jobs} at once a worker, each of {CALLS} calls in sequence, of {CALL_SECONDS * 1000:g} ms each.
CPU: share of all cores, by all processes of the run."""


async def run(rounds: int, jobs: int) -> dict[int, list[Round]]:
    """Measure the worker counts in turn, so that other load of the machine affects all of them alike."""
    groups: dict[int, list[Round]] = {workers: [] for workers in WORKER_COUNTS}
    for _ in range(rounds):
        for workers in WORKER_COUNTS:
            result = await measure(workers, jobs)
            groups[workers].append(result)
            note = "" if result.is_calm else ", with much other load"
            sys.stderr.write(f"{workers} workers: {result.rate:.1f} creates/s{note}\n")
    return groups


def main() -> None:
    """Print the table. The exit code is 0 if everything was measured, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of one, two and four workers (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="jobs that a worker runs at once (default %(default)s)")
    arguments = parser.parse_args()
    before = machine()
    rounds = uvloop.run(run(arguments.rounds, arguments.jobs))
    about = {**before, "load_after": machine()["load"]}
    text = explanation(arguments.rounds, arguments.jobs)
    sys.stdout.write(f"{table(rounds, arguments.jobs)}\n\n{text}\n\n{about}\n")


if __name__ == "__main__":
    main()
