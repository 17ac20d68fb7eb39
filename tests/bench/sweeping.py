"""Whether a sweep, a scrape and an observer's event cost more the more sandboxes there are: 100 beside 10,000.

Two systems at once, asked in turn. The records are of a cluster that nobody here observes: in every index, but without
Pods. A sweep is a job of the worker's own clock, so the same function is called from here, on the same Redis.
"""

import logging
import time
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from tests.bench import goals, records
from tests.bench.figures import Taken
from tests.bench.goals import Goal
from tests.bench.load import closed, expect
from tests.bench.observing import ONLY_EMULATED, Changes, changing
from tests.bench.report import Finding
from tests.bench.system import ROOM, Given, System, system
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.sweep import sweep

GOALS = (goals.SWEEP, goals.SCRAPE, goals.EVENT)
FEW = 100
MANY = 10_000
DUE = 20
ROUNDS = 10

Measured = tuple[Taken, float]
"""What it took, and Redis commands each."""


async def measure(given: Given) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with system(given, workers=0, **ROOM) as few, system(given, workers=0, **ROOM) as many:
        await records.write(few, range(FEW))
        await records.write(many, range(MANY))
        await _beside(few, many, goals.SCRAPE, _scrapes)
        await _beside(few, many, goals.SWEEP, _sweep)
        if not given.is_emulated:
            given.report.miss((goals.EVENT,), ONLY_EMULATED)
            return
        await few.stack.start_worker()
        await many.stack.start_worker()
        async with changing(few) as of_few, changing(many) as of_many:
            changes = {id(few): of_few, id(many): of_many}
            await _beside(few, many, goals.EVENT, lambda one: _events(one, changes[id(one)]), rounds=2)


async def _beside(
    few: System, many: System, goal: Goal, take: Callable[[System], Awaitable[Measured]], rounds: int = ROUNDS
) -> None:
    of_few, of_many, commands = Taken(), Taken(), {"few": 0.0, "many": 0.0}
    for _ in range(rounds):
        for running, name, into in ((few, "few", of_few), (many, "many", of_many)):
            taken, each = await take(running)
            into.seconds += taken.seconds
            into.failures += taken.failures
            commands[name] += each / rounds
    few.given.report.add(
        Finding(
            goal=goal,
            figure=of_many.p50_ms,
            limit=of_few.p50_ms,
            against=f"the same with {FEW} records, in turn; Redis commands each: "
            f"{commands['few']:.1f} with {FEW}, {commands['many']:.1f} with {MANY:,}",
            p50=of_many.p50_ms,
            p99=of_many.p99_ms,
            failures=of_few.failures + of_many.failures,
            details={f"commands_{name}": count for name, count in commands.items()},
        )
    )


async def _scrapes(running: System) -> Measured:
    async def scrape(_: int) -> None:
        expect(await running.api.ask("GET", "/metrics"), 200)

    count = max(2, running.given.n // 10)
    before = await running.meter.read()
    taken = await closed(scrape, count, 1)
    return taken, (await running.meter.since(before)).redis_commands / count


async def _sweep(running: System) -> Measured:
    """Of as many that are due each time; their records are removed again."""
    due = await _make_due(running)
    pacing, taken = CleanupThrottle(running.redis, running.store.now), Taken()
    before = await running.meter.read()
    began = time.perf_counter()
    found = await sweep(running.store, pacing, running.settings)
    taken.seconds.append(time.perf_counter() - began)
    spent = await running.meter.since(before)
    if found != DUE:
        taken.failures[f"{found} swept instead of {DUE}"] += 1
    for sandbox_id in due:
        await running.store.create_or_update(sandbox_id, lambda _: records.REMOVED)
    return taken, float(spent.redis_commands)


async def _make_due(running: System) -> list[str]:
    """Running, and over their lifetime."""
    ids = []
    for number in range(DUE):
        record = records.stages(records.wanted(running, MANY + number, records.ELSEWHERE), "pod", "service")[-1]
        ids.append(record.id)
        await records.put(running.store, [replace(record, lifetime=0.001)])
    return ids


async def _events(running: System, changes: Changes) -> Measured:
    before = await running.meter.read()
    await changes.take(running.given.n)
    spent = await running.meter.since(before)
    count = len(changes.ours.seconds) or 1
    own = len(changes.limit.seconds)  # a publish for each, of the bench's own
    return changes.ours, (spent.redis_commands - own) / count
