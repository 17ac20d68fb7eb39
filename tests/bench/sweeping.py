"""Growth of costs with the number of sandboxes: a sweep, a scrape and a watch event, with 100 and with 10,000 records.

Two systems run at once and are measured in turn. The records belong to a cluster without a leader: they are in every
index, but have no Pods. The workers schedule their sweeps themselves, so the benchmark calls the same function on the
same Redis.
"""

import logging
import time
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from shared.liveness.sync import ClusterSync
from shared.store import keys
from shared.store.update import Precondition
from tests.bench import goals, records
from tests.bench.figures import Samples
from tests.bench.goals import Goal
from tests.bench.load import closed_loop, expect_status
from tests.bench.observing import ONLY_EMULATED, ReadyChanges, ready_changes
from tests.bench.report import Finding
from tests.bench.system import LARGE_LIMIT, Context, System, open_system
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.sweep import sweep

GOALS = (goals.SWEEP, goals.SCRAPE, goals.EVENT)
FEW = 100
MANY = 10_000
DUE = 20
ROUNDS = 10

Measured = tuple[Samples, float]
"""Samples of one round, and the number of Redis commands of each request."""


async def measure(context: Context) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with (
        open_system(context, workers=0, **LARGE_LIMIT) as few,
        open_system(context, workers=0, **LARGE_LIMIT) as many,
    ):
        await records.write_ready(few, range(FEW))
        await records.write_ready(many, range(MANY))
        await _mark_synced(few)
        await _mark_synced(many)
        await _compare(few, many, goals.SCRAPE, _measure_scrapes)
        await _compare(few, many, goals.SWEEP, _measure_sweep)
        if not context.is_emulated:
            context.report.miss((goals.EVENT,), ONLY_EMULATED)
            return
        await few.stack.start_worker()
        await many.stack.start_worker()
        async with ready_changes(few) as few_changes, ready_changes(many) as many_changes:
            changes = {id(few): few_changes, id(many): many_changes}
            await _compare(few, many, goals.EVENT, lambda s: _measure_events(s, changes[id(s)]), rounds=2)


async def _compare(
    few: System,
    many: System,
    goal: Goal,
    measure_round: Callable[[System], Awaitable[Measured]],
    rounds: int = ROUNDS,
) -> None:
    few_samples, many_samples, commands = Samples(), Samples(), {"few": 0.0, "many": 0.0}
    for _ in range(rounds):
        for system, name, samples in ((few, "few", few_samples), (many, "many", many_samples)):
            round_samples, commands_each = await measure_round(system)
            samples.seconds += round_samples.seconds
            samples.failures += round_samples.failures
            commands[name] += commands_each / rounds
    few.context.report.add(
        Finding(
            goal=goal,
            figure=many_samples.p50_ms,
            limit=few_samples.p50_ms,
            limit_description=f"the same with {FEW} records, in turn; Redis commands each: "
            f"{commands['few']:.1f} with {FEW}, {commands['many']:.1f} with {MANY:,}",
            p50=many_samples.p50_ms,
            p99=many_samples.p99_ms,
            failures=few_samples.failures + many_samples.failures,
            details={f"commands_{name}": count for name, count in commands.items()},
        )
    )


async def _mark_synced(system: System) -> None:
    """Mark the cluster as synced, as a leader does. Before that a sweep ends no sandbox."""
    lease = Precondition(keys.leader(system.settings.cluster_name), "bench")
    await system.redis.set(*lease)
    await ClusterSync(system.redis, system.store.now, system.settings.cluster_name).mark_synced(lease)
    await system.redis.delete(lease.key)


async def _measure_scrapes(system: System) -> Measured:
    async def send(_: int) -> None:
        expect_status(await system.api.request("GET", "/metrics"), 200)

    count = max(2, system.context.n // 10)
    before = await system.meter.read()
    samples = await closed_loop(send, count, 1)
    return samples, (await system.meter.since(before)).redis_commands / count


async def _measure_sweep(system: System) -> Measured:
    """Sweep DUE records, and remove them."""
    ids = await _write_due(system)
    throttle, samples = CleanupThrottle(system.redis, system.store.now), Samples()
    before = await system.meter.read()
    started_at = time.perf_counter()
    count = await sweep(system.store, throttle, system.settings)
    samples.seconds.append(time.perf_counter() - started_at)
    usage = await system.meter.since(before)
    if count != DUE:
        samples.failures[f"{count} swept instead of {DUE}"] += 1
    for sandbox_id in ids:
        await records.remove(system.store, sandbox_id)
    return samples, float(usage.redis_commands)


async def _write_due(system: System) -> list[str]:
    """Write records of running sandboxes that are older than their lifetime, and return their ids."""
    ids = []
    for number in range(DUE):
        record = records.numbered_record(system, MANY + number, records.OTHER_CLUSTER)
        ready = records.stages(record, "pod", "service")[-1]
        ids.append(record.id)
        await records.put(system.store, replace(ready, lifetime=0.001))
    return ids


async def _measure_events(system: System, changes: ReadyChanges) -> Measured:
    before = await system.meter.read()
    await changes.run(system.context.n)
    usage = await system.meter.since(before)
    count = len(changes.product.seconds) or 1
    own_commands = len(changes.limit.seconds)  # the benchmark publishes a message for each change
    return changes.product, (usage.redis_commands - own_commands) / count
