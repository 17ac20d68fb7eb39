"""Resource usage of the processes, read from outside: /proc, the counters of Redis, and those of the emulator."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from redis.asyncio import Redis

from deploy.local.stack import Stack

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_BENCH_COMMANDS = frozenset({"info", "getrange"})
"""Commands of the benchmark, which do not count. It reads records with GETRANGE, which the product does not use."""
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class ProcessUsage(msgspec.Struct, frozen=True):
    """CPU seconds, and memory in megabytes (2^20 bytes): now, and the peak."""

    cpu: float
    rss_mb: float
    peak_mb: float


class Usage(msgspec.Struct, frozen=True):
    """The difference of two readings, for `count` requests.

    `commands` counts Redis commands, those in scripts too. `reads` counts how often Redis read a socket: one round trip
    each, however many commands it carries.
    """

    wall: float
    processes: dict[str, ProcessUsage]
    commands: Counter[str]
    reads: int
    calls: Counter[str]
    count: int = 1

    @property
    def redis_commands(self) -> int:
        return self.commands.total()

    @property
    def kubernetes_writes(self) -> int:
        return sum(count for call, count in self.calls.items() if call.partition(" ")[0] in _WRITES)

    @property
    def kubernetes_reads(self) -> int:
        """Reads without watches, whose number depends on time and not on sandboxes."""
        return sum(n for call, n in self.calls.items() if call.partition(" ")[0] in {"get", "list"})


class Reading(msgspec.Struct, frozen=True):
    at: float
    processes: dict[str, ProcessUsage]
    commands: Counter[str]
    reads: int
    calls: Counter[str]
    own_reads: int


class Meter:
    """Reads usage. Code of the benchmark that sends a command to this Redis increments `own_reads`."""

    def __init__(self, stack: Stack, redis: Redis, others: Mapping[str, int]) -> None:
        self.own_reads = 0
        self._stack = stack
        self._redis = redis
        self._others = others

    async def read(self) -> Reading:
        calls = await self._calls()
        stats = await self._redis.info("stats")
        commands = await self._redis.info("commandstats")
        self.own_reads += 2
        return Reading(
            at=time.monotonic(),
            processes={name: usage_of(pid) for name, pid in self._pids().items()},
            commands=Counter(_counts(commands)),
            reads=stats["total_reads_processed"],
            calls=calls,
            own_reads=self.own_reads,
        )

    async def since(self, before: Reading, count: int = 1) -> Usage:
        return usage_between(before, await self.read(), count)

    def _pids(self) -> dict[str, int]:
        stack = self._stack
        each = [stack.valkey, *stack.apis, *stack.workers, *([stack.emulator] if stack.emulator else [])]
        return {**{p.name: p.pid for p in each if p.exit_code is None}, **self._others, "this client": os.getpid()}

    async def _calls(self) -> Counter[str]:
        """Return how often each call was made; empty on a real cluster, which does not count them."""
        if self._stack.emulator is None:
            return Counter()
        headers = {"Authorization": f"Bearer {self._stack.emulator_token}"}
        url = f"{self._stack.emulator_url}/emulator/calls"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return Counter(await response.json())


def usage_of(pid: int) -> ProcessUsage:
    """Read the usage of one process.

    Raises:
        FileNotFoundError: the process has ended.
    """
    directory = Path("/proc") / str(pid)
    fields = (directory / "stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (directory / "status").read_text().splitlines())
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND  # utime and stime, fields 14 and 15 of proc(5)
    return ProcessUsage(cpu, _mb(status["VmRSS"]), _mb(status["VmHWM"]))


def usage_between(before: Reading, after: Reading, count: int = 1) -> Usage:
    """Return the usage between two readings. A process that started in between counts from its start."""
    cpu_before = {name: process.cpu for name, process in before.processes.items()}
    return Usage(
        wall=after.at - before.at,
        processes={
            name: msgspec.structs.replace(process, cpu=process.cpu - cpu_before.get(name, 0.0))
            for name, process in after.processes.items()
        },
        commands=after.commands - before.commands,
        reads=after.reads - before.reads - (after.own_reads - before.own_reads),
        calls=after.calls - before.calls,
        count=count,
    )


def _mb(text: str) -> float:
    return int(text.split(maxsplit=1)[0]) / 1024


def _counts(stats: dict[str, Any]) -> dict[str, int]:
    counts = {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()}
    return {name: calls for name, calls in counts.items() if name not in _BENCH_COMMANDS}
