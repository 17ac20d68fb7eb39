"""How long a create takes to be accepted: one at a time, and at a pace while the queue is long.

No worker runs: the queue holds a thousand jobs and only grows, and nothing is made of them meanwhile.
"""

import secrets

from tests.bench import goals
from tests.bench.figures import Taken
from tests.bench.load import Ask, closed, expect, paced
from tests.bench.report import Finding, of_times
from tests.bench.system import ROOM, Given, System, system
from tests.bench.wire import Wire

GOALS = (goals.ACCEPT_ONE, goals.ACCEPT_BUSY)
QUEUED = 1000
CONNECTIONS = 64
RATE = 300.0
ROUNDS = 3


async def measure(given: Given) -> None:
    async with system(given, workers=0, **ROOM) as running:
        await closed(creating(running.api), CONNECTIONS, 8)  # connections, caches, the first of everything
        await _one(running)
        filled = await closed(creating(running.api), QUEUED, CONNECTIONS)
        await _busy(running, filled)


def creating(api: Wire) -> Ask:
    """Each with an id of its own, as DeerFlow sends it."""
    run = secrets.token_hex(4)

    async def ask(number: int) -> None:
        body = f'{{"sandbox_id": "{run}{number:08}", "thread_id": "thread-{number}", "user_id": "bench"}}'
        expect(await api.ask("POST", "/api/sandboxes", body.encode()), 202)

    return ask


def _bare(bare: Wire) -> Ask:
    async def ask(number: int) -> None:
        body = f'{{"sandbox_id": "{number:016}", "thread_id": "thread-{number}", "user_id": "bench"}}'
        expect(await bare.ask("POST", "/one", body.encode()), 202)

    return ask


async def _one(running: System) -> None:
    ours, limit = Taken(), Taken()
    for _ in range(ROUNDS):
        ours += await closed(creating(running.api), running.given.n, 1)
        limit += await closed(_bare(running.bare), running.given.n, 1)
    running.given.report.add(
        of_times(goals.ACCEPT_ONE, ours, limit, "a bare handler that keeps the body with one SET, one at a time")
    )


async def _busy(running: System, filled: Taken) -> None:
    ours, limit = Taken(), Taken()
    count = 5 * running.given.n
    before = await running.meter.read()
    for _ in range(2):
        ours += await paced(creating(running.api), count, RATE, CONNECTIONS)
        limit += await paced(_bare(running.bare), count, RATE, CONNECTIONS)
    running.given.report.spent["accept at 300/s"] = await running.meter.since(before, 2 * count)
    running.given.report.add(
        Finding(
            goal=goals.ACCEPT_BUSY,
            figure=ours.p99_ms,
            limit=limit.p99_ms,
            against="the bare handler at the same pace: p99",
            p50=ours.p50_ms,
            p99=ours.p99_ms,
            failures=ours.failures + filled.failures + limit.failures,
            details={
                "limit_p50_ms": limit.p50_ms,
                "rate": ours.rate,
                "closed_64_rate": filled.rate,
                "closed_64_p50_ms": filled.p50_ms,
                "closed_64_p99_ms": filled.p99_ms,
            },
        )
    )
