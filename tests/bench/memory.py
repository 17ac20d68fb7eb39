"""Memory for 5,000 sandboxes: in Redis, in an API process that has listed them, and in a worker that leads.

Plain calls create the Pods and Services. Their records are written in the steps of the product, so history and indexes
are complete. The Services have ClusterIPs, because the emulator has fewer node ports.
"""

import asyncio

import msgspec

from shared.store import keys
from tests.bench import goals, records
from tests.bench.load import expect_status
from tests.bench.meter import usage_of
from tests.bench.plain import open_plain
from tests.bench.report import Finding
from tests.bench.system import Context, System, open_system

GOALS = (goals.API_MEMORY, goals.WORKER_MEMORY, goals.REDIS_MEMORY)
SANDBOXES = 5000
CREATE_SECONDS = 90.0
"""Time limit for creating the Pods. After it the measurement goes on with those that exist, and reports that."""
SYNC_SECONDS = 60.0
"""Time limit for a new leader to sync the cluster."""
_SETTINGS = {"SANDBOX_SERVICE_TYPE": "ClusterIP", "SANDBOX_IDLE_TIMEOUT_SECONDS": "0"}


async def measure(context: Context) -> None:
    if not context.is_emulated:
        context.report.miss(GOALS, f"{SANDBOXES:,} Pods are too many for a real cluster")
        return
    async with open_system(context, workers=0, **_SETTINGS) as system:
        empty = usage_of(system.stack.apis[0].pid)
        before = await _redis_bytes(system)
        count = await _populate(system)
        growth = await _redis_bytes(system) - before
        await _list_all(system)
        _report_api(system, count, empty.rss_mb)
        await _report_redis(system, count, growth)
        await _measure_leader(system, count)


async def _populate(system: System) -> int:
    """Create the sandboxes, and return how many exist."""
    count = 0
    async with open_plain(system.settings) as client:
        await client.create_namespace()

        async def create(number: int) -> None:
            nonlocal count
            record = records.numbered_record(system, number, system.settings.cluster_name)
            for stage in records.stages(record, *await client.create_objects(record)):
                await records.put(system.store, stage)
            count += 1

        try:
            async with asyncio.timeout(CREATE_SECONDS):
                await records.for_each(create, range(SANDBOXES))
        except TimeoutError:
            system.context.report.notes.append(f"memory: only {count:,} Pods were created in {CREATE_SECONDS:.0f} s")
    return count


async def _list_all(system: System) -> None:
    """List all sandboxes in one answer, and then in pages."""
    expect_status(await system.api.request("GET", "/api/sandboxes"), 200)
    cursor: str | None = ""
    while cursor is not None:
        response = expect_status(await system.api.request("GET", f"/api/sandboxes?limit=500{cursor}"), 200)
        next_cursor = msgspec.json.decode(response.body).get("next_cursor")
        cursor = f"&cursor={next_cursor}" if next_cursor else None


async def _redis_bytes(system: System) -> int:
    """Return the memory of Redis, without the buffers of its clients and of its append-only file."""
    memory = await system.redis.info("memory")
    return int(memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"])


def _report_api(system: System, count: int, empty_mb: float) -> None:
    usage = usage_of(system.stack.apis[0].pid)
    system.context.report.add(
        Finding(
            goal=goals.API_MEMORY,
            figure=usage.rss_mb,
            limit=empty_mb,
            limit_description="the same process before there was any sandbox",
            details={"peak_mb": usage.peak_mb, "sandboxes": float(count)},
        )
    )


async def _report_redis(system: System, count: int, growth: int) -> None:
    sandbox_id = f"{0:016x}"
    record, history = keys.record(sandbox_id), keys.history(sandbox_id)
    system.context.report.add(
        Finding(
            goal=goals.REDIS_MEMORY,
            figure=growth / count / 1000,
            limit=await system.redis.strlen(record) / 1000,
            limit_description="the bytes of one record's JSON",
            details={
                "sandboxes": float(count),
                "record_key_bytes": float(await system.redis.memory_usage(record) or 0),
                "history_key_bytes": float(await system.redis.memory_usage(history) or 0),
            },
        )
    )


async def _measure_leader(system: System, count: int) -> None:
    """Start a worker, which lists all Pods and compares each with its record."""
    process = await system.stack.start_worker()
    await process.first_line()
    at_start = usage_of(process.pid)
    before = await system.meter.read()
    async with asyncio.timeout(SYNC_SECONDS):
        while not await system.redis.exists(keys.synced(system.settings.cluster_name)):
            await asyncio.sleep(0.1)
    system.context.report.usage[f"a worker starts to lead {count:,}"] = await system.meter.since(before)
    usage = usage_of(process.pid)
    system.context.report.add(
        Finding(
            goal=goals.WORKER_MEMORY,
            figure=usage.rss_mb,
            limit=at_start.rss_mb,
            limit_description="the same process when it logged its first line",
            details={"peak_mb": usage.peak_mb, "sandboxes": float(count)},
        )
    )
