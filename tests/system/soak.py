"""Clients and faults at random for as long as one likes, and what came of it: `make soak SECONDS=600`.

The seed decides what is done, in which order; the machine, when exactly. The exit code is 1 when anything was lost,
doubled, left over, or untrue.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import msgspec

from deploy.local.processes import Show
from deploy.local.stack import Options
from tests.system import conftest
from tests.system.conftest import System, node_address
from tests.system.walk.faults import FAULTS, FLUSH, Fault, Faults
from tests.system.walk.model import Model
from tests.system.walk.repairs import Repairs, Times

WORKERS = 3
APIS = 2
LIVE = 40
IDS = [f"soak-{number}" for number in range(2 * LIVE)]
"""So few that each comes back within a minute."""
BURST_SECONDS = 25.0
"""Of load and faults, before everything must come to rest."""
CREATES = (2.0, 5.0)
"""A second; as many deletes once LIVE sandboxes are there."""
AGAIN = 0.1
"""The share of creates whose sandbox is there already."""
FLUSHED = 0.5
"""The share of bursts before which Redis is emptied."""
PAUSE_SECONDS = (1.0, 5.0)
"""Between two faults."""
LASTING_SECONDS = (1.0, 12.0)
"""Of a fault that lasts: a frozen worker loses its lease in eight."""
NODE = node_address("gw99")
"""No test's: tests may run at the same time."""

say = partial(print, flush=True)
KINDS = ("lost", "doubled", "orphans", "lies", "disagreements")


class Report(msgspec.Struct, kw_only=True):
    """Times in seconds. `found`: a line for whatever was not as it must be at rest."""

    seed: int
    seconds: float = 0.0
    workers: int = WORKERS
    apis: int = APIS
    sandboxes_made: int = 0
    sandboxes_deleted: int = 0
    answers_checked: int = 0
    faults_injected: int = 0
    faults: dict[str, Times] = {}
    rests: int = 0
    rest_worst: float = 0.0
    counts: dict[str, int] = {}
    found: list[str] = []


class Soak:
    def __init__(self, system: System, report: Report) -> None:
        self._report = report
        self._model = Model(system, IDS, seed=report.seed)
        self._faults = Faults(system, self._model)
        self._repairs = Repairs(self._model)
        self._clients = Random(f"{report.seed} clients")
        self._strikes = Random(f"{report.seed} faults")

    async def run(self, seconds: float) -> None:
        """Ends early when something is not as it must be."""
        begun = time.monotonic()
        async with self._model:
            watch = asyncio.create_task(self._repairs.watch(), name="repairs")
            try:
                while not self._report.found and (left := begun + seconds - time.monotonic()) > 0:
                    await self._round(min(left, BURST_SECONDS), begun)
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
                self._tell(time.monotonic() - begun)
                await self._faults.end()

    async def _round(self, seconds: float, begun: float) -> None:
        """A burst, then rest. Now and then Redis is emptied as the burst begins, for then all has been at rest."""
        if self._report.rests and self._strikes.random() < FLUSHED:
            await self._begin(FLUSH)
            self._repairs.begin(FLUSH.name)
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._load(end))
            group.create_task(self._strike(end))
        resting = time.monotonic()
        await self._faults.end()
        self._report.found = await self._model.rest(self._clients)
        taken = time.monotonic() - resting
        self._report.rests += 1
        self._report.rest_worst = max(self._report.rest_worst, round(taken, 2))
        self._say(time.monotonic() - begun, taken)
        if not self._report.found:
            await self._repairs.until_none()

    async def _load(self, end: float) -> None:
        """Requests overlap, but for one and the same id."""
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                is_there = self._clients.random() < AGAIN
                group.create_task(self._create(is_there=is_there))
                if len(self._model.wanted) > LIVE:
                    group.create_task(self._delete())
                await asyncio.sleep(1 / self._clients.uniform(*CREATES))

    async def _create(self, *, is_there: bool) -> None:
        wanted = self._model.wanted
        with self._model.any_of(wanted if is_there else set(self._model.ids) - wanted, self._clients) as sandbox_id:
            if sandbox_id:
                await self._model.create(sandbox_id)

    async def _delete(self) -> None:
        with self._model.any_of(self._model.wanted, self._clients) as sandbox_id:
            if sandbox_id:
                await self._model.delete(sandbox_id)

    async def _strike(self, end: float) -> None:
        """Faults that last go on beside the others; none begins again before it is over."""
        going: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                await asyncio.sleep(self._strikes.uniform(*PAUSE_SECONDS))
                fault = self._strikes.choice([f for f in FAULTS if f.name not in going or going[f.name].done()])
                if await self._begin(fault):
                    going[fault.name] = group.create_task(self._end(fault, end))

    async def _begin(self, fault: Fault) -> bool:
        if is_begun := await fault.begin(self._faults, self._strikes):
            self._repairs.count(fault.name)
        return is_begun

    async def _end(self, fault: Fault, burst_end: float) -> None:
        if fault.end is not None:
            lasting = self._strikes.uniform(*LASTING_SECONDS)
            await asyncio.sleep(max(0.0, min(lasting, burst_end - time.monotonic())))
            await fault.end(self._faults)
        self._repairs.begin(fault.name)

    def _say(self, elapsed: float, taken: float) -> None:
        counts = f"{self._model.made} made, {len(self._model.wanted)} live, {self._model.checked} answers checked"
        say(f"{elapsed:6.0f} s  at rest after {taken:4.1f} s  {counts}")

    def _tell(self, seconds: float) -> None:
        report, model = self._report, self._model
        report.seconds = round(seconds, 1)
        report.sandboxes_made, report.sandboxes_deleted = model.made, model.deleted
        report.answers_checked = model.checked
        report.faults = self._repairs.times()
        report.faults_injected = sum(times.faults for times in report.faults.values())
        found = Counter(map(_kind, report.found))
        report.counts = {kind: found[kind] for kind in KINDS}


def _kind(line: str) -> str:
    """Of a violation, by its words in `rest` and `model`."""
    if line.startswith("a lie"):
        return "lies"
    if "nobody wants" in line or "left [" in line:
        return "orphans"
    if "instead of one Pod and one Service" in line:
        services = line.count("-svc'")
        return "doubled" if services > 1 or line.count("'") / 2 - services > 1 else "lost"
    return "disagreements" if ": index" in line or line.startswith("the list") else "lost"


def text(report: Report) -> Iterator[str]:
    yield f"seed {report.seed}, {report.seconds:.0f} s, {report.workers} workers, {report.apis} APIs"
    yield f"sandboxes made {report.sandboxes_made}, deleted {report.sandboxes_deleted}"
    yield f"answers checked {report.answers_checked}, rests {report.rests} (worst {report.rest_worst:.1f} s)"
    yield f"faults injected {report.faults_injected}"
    yield ""
    yield f"{'fault':<20}{'times':>6}{'median s':>10}{'worst s':>10}   to repair"
    for name, times in report.faults.items():
        yield f"{name:<20}{times.faults:>6}{_seconds(times.median):>10}{_seconds(times.worst):>10}"
    yield ""
    yield ", ".join(f"{kind} {count}" for kind, count in report.counts.items())
    yield from report.found[:50]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


async def soak(seconds: float, report: Report, show: Show) -> None:
    environment = {"K8S_NAMESPACE": "deer-flow-soak", "NODE_HOST": NODE, "LOG_FORMAT": "json"}
    emulator = ("--node-address", NODE, "--seed", str(report.seed))
    options = Options(workers=WORKERS, apis=APIS, port=0, emulator=emulator, environment=environment, show=show)
    async with conftest._system(options) as system:
        await Soak(system, report).run(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument(
        "--out", type=Path, help="directory for report.json and the processes' logs; default: a new one"
    )
    given = parser.parse_args()
    out = given.out or Path(mkdtemp(prefix="soak-"))
    out.mkdir(parents=True, exist_ok=True)
    report = Report(seed=given.seed)
    say(f"seed {given.seed}, {given.seconds:.0f} s; report and logs in {out}")
    is_over = False
    with (out / "processes.log").open("w") as log:
        try:
            asyncio.run(soak(given.seconds, report, lambda name, line: log.write(f"{name:>9} | {line}\n")))
            is_over = True
        finally:
            (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
            say(*text(report), sep="\n")
    return 0 if is_over and not report.found else 1


if __name__ == "__main__":
    sys.exit(main())
