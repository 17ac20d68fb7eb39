"""How long a job waits in an idle system, from the step that enqueues it until a worker begins with it.

Both times are in the record, on Redis' clock: `created_at`, which the API takes just before that step, and `queued`,
with which the worker begins. So the step itself counts.
"""

import asyncio
import time

from shared.redis.connection import subscribe
from shared.store import keys
from tests.bench import goals
from tests.bench.create import Round
from tests.bench.figures import MS, Taken, median
from tests.bench.load import closed, expect
from tests.bench.report import Finding
from tests.bench.system import Given, System, system

GOALS = (goals.PICKED_UP,)
_BARE = "bench:wake"
_SECONDS = 30.0


async def measure(given: Given) -> None:
    async with system(given, workers=2) as running:
        some = Round(running.api, max(10, given.n // 4))
        jobs, ours, from_news = Heard(running), Taken(), Taken()
        listening = asyncio.create_task(jobs.listen())
        try:
            for number in range(len(some.ids)):
                await _one(running, some, number, jobs, ours, from_news)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
        _report(given, ours, from_news, await _limit(running))


class Heard:
    """When a job was last announced, by this host's clock, which is also Redis'."""

    def __init__(self, running: System) -> None:
        self.at = 0.0
        self._running = running

    async def listen(self) -> None:
        async for _ in subscribe(self._running.redis, keys.WAKEUP_CHANNEL):
            self.at = time.time()


async def _one(running: System, some: Round, number: int, jobs: Heard, ours: Taken, from_news: Taken) -> None:
    """Its whole life, so that the system is idle again for the next."""
    body = f'{{"sandbox_id": "{some.ids[number]}"}}'.encode()

    async def ask(_: int) -> None:
        expect(await running.api.ask("POST", "/api/sandboxes", body), 202)

    ours.failures += (await closed(ask, 1, 1)).failures
    async with asyncio.timeout(_SECONDS):
        while (record := await running.record(some.ids[number])) is None or not record.ready:
            await asyncio.sleep(0.02)
    queued = record.timings.queued
    if queued is None:
        ours.failures["the record does not say when it was taken up"] += 1
    else:
        ours.seconds.append(queued - record.created_at)
        from_news.seconds.append(queued - jobs.at)
    ours.failures += (await closed(lambda _: some.remove(number), 1, 1)).failures


async def _limit(running: System) -> Taken:
    """A publish, heard by another connection, which then makes one round trip."""
    taken, woken = Taken(), asyncio.Event()

    async def listen() -> None:
        async for _ in subscribe(running.redis, _BARE):
            await running.redis.time()
            woken.set()

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(_SECONDS):
        await woken.wait()  # for the subscription
        for _ in range(running.given.n):
            woken.clear()
            began = time.perf_counter()
            await running.redis.publish(_BARE, "")
            await woken.wait()
            taken.seconds.append(time.perf_counter() - began)
    listening.cancel()
    await asyncio.wait([listening])
    return taken


def _report(given: Given, ours: Taken, from_news: Taken, limit: Taken) -> None:
    given.report.add(
        Finding(
            goal=goals.PICKED_UP,
            figure=ours.p50_ms,
            limit=limit.p50_ms,
            against="a publish that is heard, and one round trip of who heard it: p50",
            p50=ours.p50_ms,
            p99=ours.p99_ms,
            failures=ours.failures,
            details={"from_announcement_p50_ms": median(from_news.seconds) * MS},
        )
    )
