"""Time that a job waits in an idle system, from the step that enqueues the job until a worker starts it.

Both times are in the record, on the clock of Redis. `created_at` is set by the API just before that step, and `queued`
by the worker at its start. So the step itself counts.
"""

import asyncio
import time

from shared.redis.connection import subscribe
from shared.store import keys
from tests.bench import goals
from tests.bench.create import Round
from tests.bench.figures import MS, Samples, median
from tests.bench.load import closed_loop, expect_status
from tests.bench.report import Finding
from tests.bench.system import Context, System, open_system

GOALS = (goals.PICKUP,)
_LIMIT_CHANNEL = "bench:wake"
_SECONDS = 30.0


async def measure(context: Context) -> None:
    async with open_system(context, workers=2) as system:
        pickups = Pickups(system, max(10, context.n // 4))
        await pickups.run()
        _report(context, pickups, await _measure_limit(system))


class Pickups:
    """Samples of one sandbox at a time. `since_message` starts with the message on the wake-up channel."""

    def __init__(self, system: System, count: int) -> None:
        self.product, self.since_message = Samples(), Samples()
        self._system = system
        self._batch = Round(system.api, count)
        self._message_at = 0.0

    async def run(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            for number in range(len(self._batch.ids)):
                await self._run_sandbox(number)
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self) -> None:
        """Note the time of each message by this host's clock, which is also that of Redis."""
        async for _ in subscribe(self._system.redis, keys.WAKEUP_CHANNEL):
            self._message_at = time.time()

    async def _run_sandbox(self, number: int) -> None:
        """Create a sandbox, and remove it: the system is idle again for the next one."""
        sandbox_id = self._batch.ids[number]

        async def send(_: int) -> None:
            body = f'{{"sandbox_id": "{sandbox_id}"}}'.encode()
            expect_status(await self._system.api.request("POST", "/api/sandboxes", body), 202)

        self.product.failures += (await closed_loop(send, 1, 1)).failures
        async with asyncio.timeout(_SECONDS):
            while (record := await self._system.record(sandbox_id)) is None or not record.ready:
                await asyncio.sleep(0.02)
        if record.timings.queued is None:
            self.product.failures["the record does not show when its job started"] += 1
        else:
            self.product.seconds.append(record.timings.queued - record.created_at)
            self.since_message.seconds.append(record.timings.queued - self._message_at)
        self.product.failures += (await closed_loop(lambda _: self._batch.remove(number), 1, 1)).failures


async def _measure_limit(system: System) -> Samples:
    """Measure a message that another connection receives, which then makes one round trip."""
    samples, received = Samples(), asyncio.Event()

    async def listen() -> None:
        async for _ in subscribe(system.redis, _LIMIT_CHANNEL):
            await system.redis.time()
            received.set()

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(_SECONDS):
        await received.wait()  # the subscription exists
        for _ in range(system.context.n):
            received.clear()
            started_at = time.perf_counter()
            await system.redis.publish(_LIMIT_CHANNEL, "")
            await received.wait()
            samples.seconds.append(time.perf_counter() - started_at)
    listening.cancel()
    await asyncio.wait([listening])
    return samples


def _report(context: Context, pickups: Pickups, limit: Samples) -> None:
    context.report.add(
        Finding(
            goal=goals.PICKUP,
            figure=pickups.product.p50_ms,
            limit=limit.p50_ms,
            limit_description="a message, and one round trip of its receiver: p50",
            p50=pickups.product.p50_ms,
            p99=pickups.product.p99_ms,
            failures=pickups.product.failures,
            details={"from_announcement_p50_ms": median(pickups.since_message.seconds) * MS},
        )
    )
