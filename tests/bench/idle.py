"""Cost of an idle worker that leads: it renews the lease, sends heartbeats and watches the cluster."""

import asyncio

from shared.liveness.workers import HEARTBEAT_SECONDS
from tests.bench import goals
from tests.bench.meter import usage_of
from tests.bench.report import Finding
from tests.bench.system import Context, System, open_system
from worker.leader.lease import RENEW_SECONDS

GOALS = (goals.IDLE_CPU, goals.IDLE_REDIS)
SECONDS = 20.0
"""Minimum time of the measurement: two sweeps, ten heartbeats, ten renewals of the lease, the end of each watch."""
_START_SECONDS = 15.0
"""Time limit for the end of the worker's start."""


async def measure(context: Context) -> None:
    async with open_system(context, workers=1) as system:
        await system.stack.apis[0].stop()
        await _until_idle(system)
        before = await system.meter.read()
        await asyncio.sleep(max(SECONDS, context.n / 10))
        usage = await system.meter.since(before)
    context.report.usage["idle"] = usage
    worker, bare = usage.processes["worker-1"], usage.processes["bare"]
    context.report.add(
        Finding(
            goal=goals.IDLE_CPU,
            figure=100 * worker.cpu / usage.wall,
            limit=100 * bare.cpu / usage.wall,
            limit_description="the idle bare server, in the same seconds",
            details={"valkey": 100 * usage.processes["valkey"].cpu / usage.wall},
        )
    )
    details = {name: count / usage.wall for name, count in usage.commands.most_common()}
    context.report.add(
        Finding(
            goal=goals.IDLE_REDIS,
            figure=usage.redis_commands / usage.wall,
            limit=1 / RENEW_SECONDS + 1 / HEARTBEAT_SECONDS,
            limit_description=f"the lease every {RENEW_SECONDS:g} s and a heartbeat every {HEARTBEAT_SECONDS:g} s",
            details=details | {"reads": usage.reads / usage.wall},
        )
    )


async def _until_idle(system: System) -> None:
    """Wait for the first second in which the worker uses next to no CPU: its start is over."""
    pid = system.stack.workers[0].pid
    async with asyncio.timeout(_START_SECONDS):
        while True:
            before = usage_of(pid).cpu
            await asyncio.sleep(1)
            if usage_of(pid).cpu - before < 0.1:
                return
