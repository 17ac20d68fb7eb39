"""What 5,000 sandboxes take: in Redis, in an API that has listed them, and in a worker that leads.

Pods and Services are made with plain calls, and their records in the steps in which the product writes them: history
and indexes are what they would be. ClusterIP, for an emulator has fewer node ports.
"""

import asyncio

import msgspec

from shared.sandbox.record import Sandbox
from tests.bench import goals, records
from tests.bench.load import expect
from tests.bench.meter import used
from tests.bench.plain import Plain, plain
from tests.bench.report import Finding
from tests.bench.system import Given, System, system
from worker import manifests

GOALS = (goals.API_MEMORY, goals.WORKER_MEMORY, goals.REDIS_MEMORY)
SANDBOXES = 5000
MADE_SECONDS = 90.0
"""What making the Pods may take; then it goes on with those there are, and says so."""
LED_SECONDS = 60.0
_LIVES = {"SANDBOX_SERVICE_TYPE": "ClusterIP", "SANDBOX_IDLE_TIMEOUT_SECONDS": "0"}


async def measure(given: Given) -> None:
    if not given.is_emulated:
        given.report.miss(GOALS, f"{SANDBOXES:,} Pods are more than a cluster should be asked for")
        return
    async with system(given, workers=0, **_LIVES) as running:
        empty = used(running.stack.apis[0].pid)
        before = await _redis_bytes(running)
        count = await _populate(running)
        grown = await _redis_bytes(running) - before
        await _list(running)
        _report_api(running, count, empty.rss_mb)
        await _report_redis(running, count, grown)
        await _lead(running, count)


async def _populate(running: System) -> int:
    """How many there are in the end."""
    count = 0
    async with plain(running.settings) as client:
        await client.make_namespace()

        async def one(number: int) -> None:
            nonlocal count
            await _live(running, client, records.wanted(running, number, running.settings.cluster_name))
            count += 1

        try:
            async with asyncio.timeout(MADE_SECONDS):
                await records.each(one, range(SANDBOXES))
        except TimeoutError:
            running.given.report.notes.append(f"memory: only {count:,} Pods could be made within {MADE_SECONDS:.0f} s")
    return count


async def _live(running: System, client: Plain, record: Sandbox) -> None:
    uids = await client.make(manifests.pod(record, running.settings), record)
    await records.put(running.store, records.stages(record, *uids))


async def _list(running: System) -> None:
    """All in one answer, and all in pages."""
    expect(await running.api.ask("GET", "/api/sandboxes"), 200)
    cursor: str | None = ""
    while cursor is not None:
        answer = expect(await running.api.ask("GET", f"/api/sandboxes?limit=500{cursor}"), 200)
        following = msgspec.json.decode(answer.body).get("next_cursor")
        cursor = f"&cursor={following}" if following else None


async def _redis_bytes(running: System) -> int:
    """Without what it keeps for its clients, and for the file that it has yet to write."""
    told = await running.redis.info("memory")
    return int(told["used_memory"] - told["mem_clients_normal"] - told["mem_aof_buffer"])


def _report_api(running: System, count: int, empty_mb: float) -> None:
    now = used(running.stack.apis[0].pid)
    running.given.report.add(
        Finding(
            goal=goals.API_MEMORY,
            figure=now.rss_mb,
            limit=empty_mb,
            against="the same process before there was any sandbox",
            details={"peak_mb": now.peak_mb, "sandboxes": float(count)},
        )
    )


async def _report_redis(running: System, count: int, grown: int) -> None:
    record = f"sandbox:{0:016x}"
    size = await running.redis.strlen(record)
    usage = [int(await running.redis.memory_usage(key) or 0) for key in (record, f"{record}:history")]
    running.given.report.add(
        Finding(
            goal=goals.REDIS_MEMORY,
            figure=grown / count / 1000,
            limit=size / 1000,
            against="the bytes of one record's JSON",
            details={
                "sandboxes": float(count),
                "record_key_bytes": float(usage[0]),
                "history_key_bytes": float(usage[1]),
            },
        )
    )


async def _lead(running: System, count: int) -> None:
    """A worker begins, lists them all, and holds each against its record."""
    process = await running.stack.start_worker()
    await process.first_line()
    begun = used(process.pid)
    before = await running.meter.read()
    async with asyncio.timeout(LED_SECONDS):
        while not await running.redis.exists(f"synced:{running.settings.cluster_name}"):
            await asyncio.sleep(0.1)
    running.given.report.spent[f"a worker takes the lead of {count:,}"] = await running.meter.since(before)
    now = used(process.pid)
    running.given.report.add(
        Finding(
            goal=goals.WORKER_MEMORY,
            figure=now.rss_mb,
            limit=begun.rss_mb,
            against="the same process as it said its first line",
            details={"peak_mb": now.peak_mb, "sandboxes": float(count)},
        )
    )
