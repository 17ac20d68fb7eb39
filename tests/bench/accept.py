"""Time until a create is accepted: one at a time, and at a fixed rate while the queue is long.

No worker runs. So the queue holds a thousand jobs and only grows, and no worker competes for CPU.
"""

import secrets

from tests.bench import goals
from tests.bench.figures import Samples
from tests.bench.load import Send, closed_loop, expect_status, open_loop
from tests.bench.report import Finding, finding_of_times
from tests.bench.system import LARGE_LIMIT, Context, System, open_system
from tests.bench.wire import Wire

GOALS = (goals.ACCEPT_ONE, goals.ACCEPT_BUSY)
QUEUED = 1000
CONNECTIONS = 64
RATE = 300.0
ROUNDS = 3


async def measure(context: Context) -> None:
    async with open_system(context, workers=0, **LARGE_LIMIT) as system:
        await closed_loop(creates(system.api), CONNECTIONS, 8)  # opens connections, fills caches
        await _measure_one(system)
        filling = await closed_loop(creates(system.api), QUEUED, CONNECTIONS)
        await _measure_busy(system, filling)


def creates(api: Wire) -> Send:
    """Return a function that sends creates as DeerFlow does. Each has a new id."""
    run = secrets.token_hex(4)

    async def send(number: int) -> None:
        body = f'{{"sandbox_id": "{run}{number:08}", "thread_id": "thread-{number}", "user_id": "bench"}}'
        expect_status(await api.request("POST", "/api/sandboxes", body.encode()), 202)

    return send


def _bare_creates(bare: Wire) -> Send:
    async def send(number: int) -> None:
        body = f'{{"sandbox_id": "{number:016}", "thread_id": "thread-{number}", "user_id": "bench"}}'
        expect_status(await bare.request("POST", "/one", body.encode()), 202)

    return send


async def _measure_one(system: System) -> None:
    product, limit = Samples(), Samples()
    for _ in range(ROUNDS):
        product += await closed_loop(creates(system.api), system.context.n, 1)
        limit += await closed_loop(_bare_creates(system.bare), system.context.n, 1)
    description = "a bare handler that stores the body with one SET, one at a time"
    system.context.report.add(finding_of_times(goals.ACCEPT_ONE, product, limit, description))


async def _measure_busy(system: System, filling: Samples) -> None:
    product, limit = Samples(), Samples()
    count = 5 * system.context.n
    before = await system.meter.read()
    for _ in range(2):
        product += await open_loop(creates(system.api), count, RATE, CONNECTIONS)
        limit += await open_loop(_bare_creates(system.bare), count, RATE, CONNECTIONS)
    system.context.report.usage["accept at 300/s"] = await system.meter.since(before, 2 * count)
    system.context.report.add(
        Finding(
            goal=goals.ACCEPT_BUSY,
            figure=product.p99_ms,
            limit=limit.p99_ms,
            limit_description="the bare handler at the same rate: p99",
            p50=product.p50_ms,
            p99=product.p99_ms,
            failures=product.failures + filling.failures + limit.failures,
            details={
                "limit_p50_ms": limit.p50_ms,
                "rate": product.rate,
                "closed_64_rate": filling.rate,
                "closed_64_p50_ms": filling.p50_ms,
                "closed_64_p99_ms": filling.p99_ms,
            },
        )
    )
