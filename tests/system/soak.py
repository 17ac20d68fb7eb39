"""Random load and random faults for a given time, and a report of all violations: `make soak SECONDS=600`.

The seed decides what happens and in which order; the machine decides when exactly. The exit code is 1 if there is a
violation. docs/soak.md explains the report.
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
from tests.support.emulator import SYSTEM_TESTS, node_address
from tests.system.conftest import System, open_system
from tests.system.walk.faults import FAULTS, FLUSH, Fault, Faults
from tests.system.walk.model import Model
from tests.system.walk.repairs import Repairs, Times

WORKERS = 3
APIS = 2
LIVE = 40
IDS = [f"soak-{number}" for number in range(2 * LIVE)]
"""Sandbox ids. Few, so that each comes back within a minute."""
BURST_SECONDS = 25.0
"""Time of load and faults, before the system must come to rest."""
CREATE_RATE = (2.0, 5.0)
"""Creates a second. As many deletes follow as soon as LIVE sandboxes exist."""
REPEATED_SHARE = 0.1
"""Share of creates whose sandbox exists already."""
FLUSHED_SHARE = 0.5
"""Share of bursts before which Redis is emptied."""
PAUSE_SECONDS = (1.0, 5.0)
"""Time between two faults."""
LASTING_SECONDS = (1.0, 12.0)
"""Time of a fault that lasts. A frozen worker loses its lease after eight seconds."""
NODE = node_address("gw99", SYSTEM_TESTS)
"""An address that no test uses: tests may run at the same time."""

print_now = partial(print, flush=True)
KINDS = ("lost", "doubled", "orphans", "lies", "disagreements")


class Report(msgspec.Struct, kw_only=True):
    """Times are in seconds. `findings` holds a line for each violation at rest, and for each lie."""

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
    findings: list[str] = []


class Soak:
    """Load, faults and checks of one system."""

    def __init__(self, system: System, report: Report) -> None:
        self._report = report
        self._model = Model(system, IDS, seed=report.seed)
        self._faults = Faults(system, self._model)
        self._repairs = Repairs(self._model)
        self._clients = Random(f"{report.seed} clients")
        self._strikes = Random(f"{report.seed} faults")

    async def run(self, seconds: float) -> None:
        """Run bursts for `seconds`, or until there is a violation."""
        started_at = time.monotonic()
        async with self._model:
            watch = asyncio.create_task(self._repairs.watch(), name="repairs")
            try:
                while not self._report.findings and (left := started_at + seconds - time.monotonic()) > 0:
                    await self._round(min(left, BURST_SECONDS), started_at)
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
                self._fill_report(time.monotonic() - started_at)
                await self._faults.end_all()

    async def _round(self, seconds: float, started_at: float) -> None:
        """Run a burst, then wait for rest. Redis can be emptied only at the start of a burst, while all is at rest."""
        if self._report.rests and self._strikes.random() < FLUSHED_SHARE:
            await self._begin(FLUSH)
            self._repairs.begin(FLUSH.name)
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._load(end))
            group.create_task(self._strike(end))
        burst_end = time.monotonic()
        await self._faults.end_all()
        self._report.findings = await self._model.rest(self._clients)
        rest_seconds = time.monotonic() - burst_end
        self._report.rests += 1
        self._report.rest_worst = max(self._report.rest_worst, round(rest_seconds, 2))
        self._print_progress(time.monotonic() - started_at, rest_seconds)
        if not self._report.findings:
            await self._repairs.until_none()

    async def _load(self, end: float) -> None:
        """Send creates and deletes, which overlap unless they are of the same id."""
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                is_repeated = self._clients.random() < REPEATED_SHARE
                group.create_task(self._create(is_repeated=is_repeated))
                if len(self._model.expected) > LIVE:
                    group.create_task(self._delete())
                await asyncio.sleep(1 / self._clients.uniform(*CREATE_RATE))

    async def _create(self, *, is_repeated: bool) -> None:
        existing = self._model.expected
        ids = existing if is_repeated else set(self._model.ids) - existing
        with self._model.any_of(ids, self._clients) as sandbox_id:
            if sandbox_id:
                await self._model.create(sandbox_id)

    async def _delete(self) -> None:
        with self._model.any_of(self._model.expected, self._clients) as sandbox_id:
            if sandbox_id:
                await self._model.delete(sandbox_id)

    async def _strike(self, end: float) -> None:
        """Start faults until `end`. Several can last at once, but only one of each kind."""
        lasting: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                await asyncio.sleep(self._strikes.uniform(*PAUSE_SECONDS))
                fault = self._strikes.choice([f for f in FAULTS if f.name not in lasting or lasting[f.name].done()])
                if await self._begin(fault):
                    lasting[fault.name] = group.create_task(self._end(fault, end))

    async def _begin(self, fault: Fault) -> bool:
        if has_begun := await fault.begin(self._faults, self._strikes):
            self._repairs.count(fault.name)
        return has_begun

    async def _end(self, fault: Fault, burst_end: float) -> None:
        if fault.end is not None:
            seconds = self._strikes.uniform(*LASTING_SECONDS)
            await asyncio.sleep(max(0.0, min(seconds, burst_end - time.monotonic())))
            await fault.end(self._faults)
        self._repairs.begin(fault.name)

    def _print_progress(self, elapsed: float, rest_seconds: float) -> None:
        model = self._model
        counts = f"{model.created_count} made, {len(model.expected)} live, {model.checked_count} answers checked"
        print_now(f"{elapsed:6.0f} s  at rest after {rest_seconds:4.1f} s  {counts}")

    def _fill_report(self, seconds: float) -> None:
        report, model = self._report, self._model
        report.seconds = round(seconds, 1)
        report.sandboxes_made, report.sandboxes_deleted = model.created_count, model.deleted_count
        report.answers_checked = model.checked_count
        report.faults = self._repairs.times()
        report.faults_injected = sum(times.faults for times in report.faults.values())
        counts = Counter(map(_kind, report.findings))
        report.counts = {kind: counts[kind] for kind in KINDS}


def _kind(line: str) -> str:
    """Return the kind of a violation by the words of tests/system/rest.py and walk/model.py."""
    if line.startswith("a lie"):
        return "lies"
    if ": unexpected" in line or "left [" in line:
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
    yield from report.findings[:50]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


async def soak(seconds: float, report: Report, show: Show) -> None:
    environment = {"K8S_NAMESPACE": "deer-flow-soak", "NODE_HOST": NODE, "LOG_FORMAT": "json"}
    emulator = ("--node-address", NODE, "--seed", str(report.seed))
    options = Options(workers=WORKERS, apis=APIS, port=0, emulator=emulator, environment=environment, show=show)
    async with open_system(options) as system:
        await Soak(system, report).run(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument(
        "--out", type=Path, help="directory for report.json and the processes' logs; default: a new one"
    )
    arguments = parser.parse_args()
    out = arguments.out or Path(mkdtemp(prefix="soak-"))
    out.mkdir(parents=True, exist_ok=True)
    report = Report(seed=arguments.seed)
    print_now(f"seed {arguments.seed}, {arguments.seconds:.0f} s; report and logs in {out}")
    with (out / "processes.log").open("w") as log:

        def write(name: str, line: str) -> None:
            log.write(f"{name:>9} | {line}\n")

        try:
            asyncio.run(soak(arguments.seconds, report, write))
        finally:
            (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
            print_now(*text(report), sep="\n")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
