"""`python -m tests.bench.scaling`: creates a second with one worker, two and four, while Kubernetes is not the limit.

Each call to the emulated cluster takes 50 ms longer, and each worker runs one job at a time, so that its time goes into
waiting, as it does before a real cluster, and not into the cores that all processes here share.
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
from tests.bench.load import closed, expect
from tests.bench.machine import busy, machine
from tests.bench.meter import Spent
from tests.bench.report import Report
from tests.bench.system import LINES_KEPT, ROOM, Given, System, system
from tests.bench.table import aligned

CALL_SECONDS = 0.05
CALLS = 2
"""Of one create, one after the other: Pod and Service."""
NUMBERS = (1, 2, 4)
SECONDS = 8.0
"""Of work that each worker is given: less than a job may wait before it is taken for lost (`shared.sandbox.record`)."""
POLL_SECONDS = 0.5
ROUND_SECONDS = 90.0
OTHERS = 0.25
"""Share of all cores that others may take: of a round in which they took more, it is them that were measured."""
HEAD = ("workers", "creates/s", "one worker's", "at most", "CPU ms a create", "our CPU", "each round (CPU of others)")


class Round(NamedTuple):
    """`rate`: sandboxes a second. `busy`: the share of all cores that was used, by whatever ran on the machine."""

    rate: float
    spent: Spent
    busy: float

    @property
    def cpu(self) -> float:
        """Seconds, of all processes of the run."""
        return sum(used.cpu for used in self.spent.processes.values())

    @property
    def share(self) -> float:
        """Of all cores, by all processes of the run."""
        return self.cpu / self.spent.wall / int(machine()["cores"])

    @property
    def is_calm(self) -> bool:
        return self.busy - self.share <= OTHERS


async def measure(workers: int, jobs: int) -> Round:
    """Raises RuntimeError: not every create came to its URL. TimeoutError."""
    given = Given(0, None, Report(), deque(maxlen=LINES_KEPT), CALL_SECONDS)
    async with (
        asyncio.timeout(ROUND_SECONDS),
        system(given, workers=workers, WORKER_MAX_JOBS=str(jobs), **ROOM) as running,
    ):
        await _warm(running, workers)
        ids = [f"s{number:06}" for number in range(round(SECONDS * workers * jobs / (CALLS * CALL_SECONDS)))]
        with _held(running.stack.workers):
            await _create(running, ids)
            before, machine_before = await running.meter.read(), busy()
        await _all_done(running)
        spent = await running.meter.since(before, len(ids))
        return Round(await _rate(running, ids), spent, busy().since(machine_before))


async def _warm(running: System, workers: int) -> None:
    """Every worker has begun, and the first of everything (namespace, connections, scripts) is made."""
    while await running.redis.zcard(keys.WORKERS) < workers:
        await asyncio.sleep(POLL_SECONDS)
    await _create(running, [f"warm{number}" for number in range(4 * workers)])
    await _all_done(running)


@contextmanager
def _held(workers: Sequence[Process]) -> Iterator[None]:
    """So that all of them begin at once, with all of their work before them."""
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.signal(signal.SIGCONT)


async def _create(running: System, ids: Sequence[str]) -> None:
    async def ask(number: int) -> None:
        expect(await running.api.ask("POST", "/api/sandboxes", f'{{"sandbox_id": "{ids[number]}"}}'.encode()), 202)

    taken = await closed(ask, len(ids), 16)
    if taken.failures:
        raise RuntimeError(f"not accepted: {dict(taken.failures)}")


async def _all_done(running: System) -> None:
    """No job is left. (A job stays in the queue while it runs, and while it is put off.)"""
    while await running.redis.zcard(keys.QUEUE):
        await asyncio.sleep(POLL_SECONDS)


async def _rate(running: System, ids: Sequence[str]) -> float:
    """By the stamps in the records, all of Redis' clock: from the first that a worker took up to the last URL."""
    stamps = [record.timings for record in await running.records(list(ids)) if record is not None]
    begun = [each.queued for each in stamps if each.queued is not None]
    made = [each.created for each in stamps if each.created is not None]
    if len(made) < len(ids):
        raise RuntimeError(f"{len(made)} of {len(ids)} were made; the workers said: {list(running.given.lines)}")
    return len(ids) / (max(made) - min(begun))


def table(found: dict[int, list[Round]], jobs: int) -> str:
    alone = _rate_of(found[NUMBERS[0]])
    return aligned([HEAD, *(_row(workers, rounds, alone, jobs) for workers, rounds in found.items())])


def _row(workers: int, rounds: Sequence[Round], alone: float, jobs: int) -> tuple[str, ...]:
    rate, counted = _rate_of(rounds), _calm(rounds)
    return (
        str(workers),
        f"{rate:.1f}",
        f"{rate / alone:.2f} times",
        f"{workers * jobs / (CALLS * CALL_SECONDS):.0f}",
        f"{median([each.cpu * 1000 / each.spent.count for each in counted]):.1f}",
        f"{median([each.share for each in counted]):.0%}",
        ", ".join(f"{each.rate:.1f} ({max(0.0, each.busy - each.share):.0%})" for each in rounds),
    )


def _rate_of(rounds: Sequence[Round]) -> float:
    return median([each.rate for each in _calm(rounds)])


def _calm(rounds: Sequence[Round]) -> Sequence[Round]:
    """All of them, if there was none: the table shows it."""
    return [each for each in rounds if each.is_calm] or rounds


def explanation(rounds: int, jobs: int) -> str:
    return f"""\
creates/s: median of {rounds} rounds, in turn with the others; without those in which others took more than {OTHERS:.0%}
  of all cores, if there was another one. By the records' own stamps, from the first job's start to the last URL, of
  {SECONDS:g} s of work that was put in the queue while the workers were held.
at most: {jobs} at once a worker, each of {CALLS} calls in sequence, of {CALL_SECONDS * 1000:g} ms each.
our CPU: share of all cores, by all processes of the run."""


async def run(rounds: int, jobs: int) -> dict[int, list[Round]]:
    """In turn, so that what else the machine does falls on all alike."""
    found: dict[int, list[Round]] = {workers: [] for workers in NUMBERS}
    for _ in range(rounds):
        for workers in NUMBERS:
            made = await measure(workers, jobs)
            found[workers].append(made)
            sys.stderr.write(f"{workers} workers: {made.rate:.1f} creates/s{'' if made.is_calm else ', disturbed'}\n")
    return found


def main() -> None:
    """Exits 0 when everything could be measured, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of one, two and four workers (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="that a worker runs at once (default %(default)s)")
    asked = parser.parse_args()
    before = machine()
    found = uvloop.run(run(asked.rounds, asked.jobs))
    about = {**before, "load_after": machine()["load"]}
    sys.stdout.write(f"{table(found, asked.jobs)}\n\n{explanation(asked.rounds, asked.jobs)}\n\n{about}\n")


if __name__ == "__main__":
    main()
