"""Time from a change of the Ready condition in Kubernetes until the record shows the change.

The benchmark writes the condition of running Pods, and has a plain watch of its own. A sample starts when that watch
reports the change. It ends when, after a message on `sandboxes:changes`, the record shows the change. All times are of
this process' clock.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from shared.redis.connection import subscribe
from shared.store import keys
from tests.bench import goals
from tests.bench.create import Round, until_ready
from tests.bench.figures import Samples
from tests.bench.load import closed_loop, open_loop
from tests.bench.plain import PlainClient, open_plain
from tests.bench.report import Finding
from tests.bench.system import Context, System, open_system
from worker.kubernetes.labels import SANDBOX_ID
from worker.kubernetes.objects import Pod, WatchFrame

GOALS = (goals.READY, goals.READY_TAIL)
PODS = 50
RATE = 50.0
ONLY_EMULATED = "on a real cluster only the kubelet decides whether a Pod is ready"
_LIMIT_CHANNEL = "bench:changes"
_SETTLE_SECONDS = 20.0
"""Time limit for the last change to reach its record."""

_frame = msgspec.json.Decoder(WatchFrame).decode
_pod = msgspec.json.Decoder(Pod).decode


class ReadyChanges:
    """Changes of Ready conditions: the time of each in the benchmark's own watch, and in the record."""

    def __init__(self, system: System, client: PlainClient, ids: list[str]) -> None:
        self.reset()
        self._system = system
        self._client = client
        self._ids = ids
        self._ready = dict.fromkeys(ids, True)
        self._pending: dict[str, tuple[bool, float]] = {}
        self._written_at: dict[str, float] = {}
        self._is_subscribed = asyncio.Event()

    def reset(self) -> None:
        """Drop all samples. `since_write` starts before the write, so it includes the API server's own time."""
        self.product, self.limit, self.since_write = Samples(), Samples(), Samples()
        self._change_count = 0

    async def run(self, count: int) -> None:
        """Make `count` changes at RATE, rounded up so that all Pods are ready at the end, as at the start."""
        self.reset()
        rounds = -(-count // (2 * PODS))
        writes = await open_loop(self.change, rounds * 2 * PODS, RATE, 8)
        await self._settle()
        self.product.failures += writes.failures

    async def change(self, number: int) -> None:
        """Make one Pod after the other unready, and in the next round ready again."""
        sandbox_id, ready = self._ids[number % PODS], bool(number // PODS % 2)
        self._written_at[sandbox_id] = time.perf_counter()
        await self._client.set_ready(f"sandbox-{sandbox_id}", ready=ready)
        self._change_count += 1

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Take samples while the context is open."""
        version = await self._client.pods_version()
        coroutines = (self._watch(version), self._receive_changes(), self._receive_limit())
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._is_subscribed.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, version: str) -> None:
        async for line in self._client.watch_pods(version):
            pod = _pod(_frame(line).object)
            sandbox_id, ready = pod.metadata.labels.get(SANDBOX_ID, ""), pod.is_condition_true("Ready")
            if self._ready.get(sandbox_id) is ready:
                continue
            self._ready[sandbox_id] = ready
            self._pending[sandbox_id] = ready, time.perf_counter()
            await self._system.redis.publish(_LIMIT_CHANNEL, f"{sandbox_id} {self._pending[sandbox_id][1]}")
            await self._check(sandbox_id)  # the leader's watch can be faster than this one

    async def _receive_changes(self) -> None:
        async for message in subscribe(self._system.redis, keys.CHANGES):
            self._is_subscribed.set()
            if message is not None:
                await self._check(message.decode())

    async def _check(self, sandbox_id: str) -> None:
        if sandbox_id not in self._pending:
            return
        record = await self._system.record(sandbox_id)
        ready, since = self._pending.get(sandbox_id, (None, 0.0))
        if record is not None and record.ready is ready:
            self.product.seconds.append(time.perf_counter() - since)
            self.since_write.seconds.append(time.perf_counter() - self._written_at[sandbox_id])
            del self._pending[sandbox_id]

    async def _receive_limit(self) -> None:
        """Measure the limit: a message for each change, received by a subscriber that then reads the record."""
        async for message in subscribe(self._system.redis, _LIMIT_CHANNEL):
            if message is not None:
                sandbox_id, since = message.decode().split()
                await self._system.record(sandbox_id)
                self.limit.seconds.append(time.perf_counter() - float(since))

    async def _settle(self) -> None:
        """Wait for the last changes. A change that comes too late is a failure."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while len(self.product.seconds) < self._change_count:
                    await asyncio.sleep(0.01)
        if missing := self._change_count - len(self.product.seconds):
            self.product.failures["never recorded, or not before the next change"] += missing


@asynccontextmanager
async def ready_changes(system: System) -> AsyncIterator[ReadyChanges]:
    """Create PODS ready sandboxes, and watch them."""
    batch = Round(system.api, PODS)
    creates = await closed_loop(batch.create, PODS, 10)
    if creates.failures:
        raise RuntimeError(f"no sandboxes to watch: {dict(creates.failures)}")
    await until_ready(system, batch.ids)
    async with open_plain(system.settings) as client:
        changes = ReadyChanges(system, client, batch.ids)
        async with changes.watching():
            await changes.run(2 * PODS)  # opens connections, fills caches
            yield changes


async def measure(context: Context) -> None:
    if not context.is_emulated:
        context.report.miss(GOALS, ONLY_EMULATED)
        return
    async with open_system(context, workers=1) as system, ready_changes(system) as changes:
        before = await system.meter.read()
        await changes.run(2 * context.n)
        usage = await system.meter.since(before, len(changes.product.seconds))
        context.report.usage["Ready → record, 50 changes/s"] = usage
        _report(context, changes)


def _report(context: Context, changes: ReadyChanges) -> None:
    product, limit = changes.product, changes.limit
    for goal, figure, limit_figure, name in (
        (goals.READY, product.p50_ms, limit.p50_ms, "p50"),
        (goals.READY_TAIL, product.p99_ms, limit.p99_ms, "p99"),
    ):
        context.report.add(
            Finding(
                goal=goal,
                figure=figure,
                limit=limit_figure,
                limit_description=f"a plain watch that publishes each change, to a subscriber that reads: {name}",
                p50=product.p50_ms,
                p99=product.p99_ms,
                failures=product.failures,
                details={
                    "changes": float(len(product.seconds)),
                    "from_write_p50_ms": changes.since_write.p50_ms,
                    "from_write_p99_ms": changes.since_write.p99_ms,
                },
            )
        )
