"""How long it takes from a change of the Ready condition in Kubernetes until the record says so.

The bench writes the condition of Pods that run, and keeps a plain watch of its own: the time begins when that watch
tells of the change, and ends when, after a publish on `sandboxes:changes`, the record has it. One clock: this process'.
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
from tests.bench.figures import Taken
from tests.bench.load import closed, paced
from tests.bench.plain import Plain, plain
from tests.bench.report import Finding
from tests.bench.system import Given, System, system
from worker.kubernetes.labels import SANDBOX_ID
from worker.kubernetes.objects import Pod, WatchFrame

GOALS = (goals.OBSERVED, goals.OBSERVED_TAIL)
PODS = 50
RATE = 50.0
ONLY_EMULATED = "on a real cluster the kubelet, and nobody else, says whether a Pod is ready"
_BARE = "bench:heard"
_SETTLE_SECONDS = 20.0

_frame = msgspec.json.Decoder(WatchFrame).decode
_pod = msgspec.json.Decoder(Pod).decode


class Changes:
    """Of Pods' Ready conditions: when each was first seen by a plain watch, and when the record had it."""

    def __init__(self, running: System, client: Plain, ids: list[str]) -> None:
        self.begin()
        self._running = running
        self._client = client
        self._ids = ids
        self._ready = dict.fromkeys(ids, True)
        self._open: dict[str, tuple[bool, float]] = {}
        self._writes: dict[str, float] = {}
        self._hearing = asyncio.Event()

    def begin(self) -> None:
        """Forget what was measured. `written` counts from before the write, so it has the API server's own time."""
        self.ours, self.limit, self.written = Taken(), Taken(), Taken()
        self._flipped = 0

    async def take(self, count: int) -> None:
        """So many changes at RATE, rounded up so that all Pods are ready in the end, as in the beginning."""
        self.begin()
        rounds = -(-count // (2 * PODS))
        sent = await paced(self.flip, rounds * 2 * PODS, RATE, 8)
        await self._settled()
        self.ours.failures += sent.failures

    async def flip(self, number: int) -> None:
        """Each Pod in its turn becomes unready, and in the next round ready again."""
        sandbox_id, ready = self._ids[number % PODS], bool(number // PODS % 2)
        self._writes[sandbox_id] = time.perf_counter()
        await self._client.set_ready(f"sandbox-{sandbox_id}", ready=ready)
        self._flipped += 1

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While it is entered, what changes is measured."""
        version = await self._client.version()
        listening = [
            asyncio.create_task(one) for one in (self._watch(version), self._hear_records(), self._hear_bare())
        ]
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._hearing.wait()
            yield
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    async def _watch(self, version: str) -> None:
        async for line in self._client.watch(version):
            pod = _pod(_frame(line).object)
            sandbox_id, ready = pod.metadata.labels.get(SANDBOX_ID, ""), pod.is_condition_true("Ready")
            if self._ready.get(sandbox_id) is ready:
                continue
            self._ready[sandbox_id] = ready
            self._open[sandbox_id] = ready, time.perf_counter()
            await self._running.redis.publish(_BARE, f"{sandbox_id} {self._open[sandbox_id][1]}")
            await self._look(sandbox_id)  # the worker's watch may have told it earlier than ours

    async def _hear_records(self) -> None:
        async for message in subscribe(self._running.redis, keys.CHANGES):
            self._hearing.set()
            if message is not None:
                await self._look(message.decode())

    async def _look(self, sandbox_id: str) -> None:
        if sandbox_id not in self._open:
            return
        record = await self._running.record(sandbox_id)
        ready, since = self._open.get(sandbox_id, (None, 0.0))
        if record is not None and record.ready is ready:
            self.ours.seconds.append(time.perf_counter() - since)
            self.written.seconds.append(time.perf_counter() - self._writes[sandbox_id])
            del self._open[sandbox_id]

    async def _hear_bare(self) -> None:
        """The limit: who sees a change publishes it at once, and it is heard and read."""
        async for message in subscribe(self._running.redis, _BARE):
            if message is not None:
                sandbox_id, since = message.decode().split()
                await self._running.record(sandbox_id)
                self.limit.seconds.append(time.perf_counter() - float(since))

    async def _settled(self) -> None:
        """Those that come too late are failures."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while len(self.ours.seconds) < self._flipped:
                    await asyncio.sleep(0.01)
        if missing := self._flipped - len(self.ours.seconds):
            self.ours.failures["never recorded, or not before the next change"] += missing


@asynccontextmanager
async def changing(running: System) -> AsyncIterator[Changes]:
    """With PODS sandboxes that are ready, and everyone listening."""
    some = Round(running.api, PODS)
    created = await closed(some.create, PODS, 10)
    if created.failures:
        raise RuntimeError(f"no sandboxes to observe: {dict(created.failures)}")
    await until_ready(running, some.ids)
    async with plain(running.settings) as client:
        changes = Changes(running, client, some.ids)
        async with changes.watching():
            await changes.take(2 * PODS)  # the first of everything
            yield changes


async def measure(given: Given) -> None:
    if not given.is_emulated:
        given.report.miss(GOALS, ONLY_EMULATED)
        return
    async with system(given, workers=1) as running, changing(running) as changes:
        before = await running.meter.read()
        await changes.take(2 * given.n)
        given.report.spent["observing, 50 changes/s"] = await running.meter.since(before, len(changes.ours.seconds))
        _report(given, changes)


def _report(given: Given, changes: Changes) -> None:
    ours, limit = changes.ours, changes.limit
    for goal, figure, of_limit, which in (
        (goals.OBSERVED, ours.p50_ms, limit.p50_ms, "p50"),
        (goals.OBSERVED_TAIL, ours.p99_ms, limit.p99_ms, "p99"),
    ):
        given.report.add(
            Finding(
                goal=goal,
                figure=figure,
                limit=of_limit,
                against=f"a plain watch that publishes each change at once, heard and read: {which}",
                p50=ours.p50_ms,
                p99=ours.p99_ms,
                failures=ours.failures,
                details={
                    "changes": float(len(ours.seconds)),
                    "from_write_p50_ms": changes.written.p50_ms,
                    "from_write_p99_ms": changes.written.p99_ms,
                },
            )
        )
