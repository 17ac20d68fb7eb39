"""What a worker costs that has nothing to do, but leads: it holds the lease and watches the cluster."""

import asyncio

from tests.bench import goals
from tests.bench.meter import used
from tests.bench.report import Finding
from tests.bench.system import Given, System, system

GOALS = (goals.IDLE_CPU, goals.IDLE_REDIS)
SECONDS = 20.0
"""At the least: two sweeps, four signs of life, ten renewals of the lease, the end of each watch."""
_CALM_SECONDS = 15.0


async def measure(given: Given) -> None:
    async with system(given, workers=1) as running:
        await running.stack.apis[0].stop()
        await _calm(running)
        before = await running.meter.read()
        await asyncio.sleep(max(SECONDS, given.n / 10))
        spent = await running.meter.since(before)
    given.report.spent["idle"] = spent
    worker, bare = spent.processes["worker-1"], spent.processes["bare"]
    details = {name: count / spent.wall for name, count in spent.commands.most_common()}
    given.report.add(
        Finding(
            goal=goals.IDLE_CPU,
            figure=100 * worker.cpu / spent.wall,
            limit=100 * bare.cpu / spent.wall,
            against="the bare server, with nothing to do, in the same seconds",
            details={"valkey": 100 * spent.processes["valkey"].cpu / spent.wall},
        )
    )
    given.report.add(
        Finding(
            goal=goals.IDLE_REDIS,
            figure=spent.redis_commands / spent.wall,
            limit=1 / 2.0 + 1 / 5.0,
            against="by hand: the lease renewed every 2 s, a sign of life every 5 s",
            details=details | {"reads": spent.reads / spent.wall},
        )
    )


async def _calm(running: System) -> None:
    """Its start is over once a second goes by in which it does next to nothing."""
    pid = running.stack.workers[0].pid
    async with asyncio.timeout(_CALM_SECONDS):
        while True:
            before = used(pid).cpu
            await asyncio.sleep(1)
            if used(pid).cpu - before < 0.1:
                return
