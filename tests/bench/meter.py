"""What the processes use, read from outside: /proc, Redis' own counters, and the emulator's."""

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

_TICKS = os.sysconf("SC_CLK_TCK")
_OURS = frozenset({"info", "getrange"})
"""Commands of the bench alone: it reads records with GETRANGE, which the product does not use, to tell them apart."""
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Used(msgspec.Struct, frozen=True):
    """CPU seconds, and megabytes (2^20) in memory, now and at the most."""

    cpu: float
    rss_mb: float
    peak_mb: float


class Spent(msgspec.Struct, frozen=True):
    """Between two readings, for `count` requests.

    `commands` counts those in scripts too; `reads` is how often Redis had to read a socket: a round trip each, however
    many commands it brings.
    """

    wall: float
    processes: dict[str, Used]
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
        """Without watches, which cost by the minute and not by the sandbox."""
        return sum(n for call, n in self.calls.items() if call.partition(" ")[0] in {"get", "list"})


class Reading(msgspec.Struct, frozen=True):
    at: float
    processes: dict[str, Used]
    commands: Counter[str]
    reads: int
    calls: Counter[str]
    own_reads: int


class Meter:
    """`own_reads` is raised by whoever of the bench speaks to this Redis."""

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
            processes={name: used(pid) for name, pid in self._pids().items()},
            commands=Counter(_counts(commands)),
            reads=stats["total_reads_processed"],
            calls=calls,
            own_reads=self.own_reads,
        )

    async def since(self, before: Reading, count: int = 1) -> Spent:
        return spent(before, await self.read(), count)

    def _pids(self) -> dict[str, int]:
        stack = self._stack
        each = [stack.valkey, *stack.apis, *stack.workers, *([stack.emulator] if stack.emulator else [])]
        return {**{p.name: p.pid for p in each if p.exit_code is None}, **self._others, "this client": os.getpid()}

    async def _calls(self) -> Counter[str]:
        """None on a real cluster, which does not count them for us."""
        if self._stack.emulator is None:
            return Counter()
        headers = {"Authorization": f"Bearer {self._stack.emulator_token}"}
        url = f"{self._stack.emulator_url}/emulator/calls"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return Counter(await response.json())


def used(pid: int) -> Used:
    """Raises FileNotFoundError: it has ended."""
    place = Path("/proc") / str(pid)
    ticks = (place / "stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    cpu = (int(ticks[11]) + int(ticks[12])) / _TICKS  # utime and stime, fields 14 and 15 of proc(5)
    return Used(cpu, _mb(status["VmRSS"]), _mb(status["VmHWM"]))


def spent(before: Reading, after: Reading, count: int = 1) -> Spent:
    """A process that began in between is counted from its beginning."""
    began = {name: was.cpu for name, was in before.processes.items()}
    return Spent(
        wall=after.at - before.at,
        processes={
            name: msgspec.structs.replace(now, cpu=now.cpu - began.get(name, 0.0))
            for name, now in after.processes.items()
        },
        commands=after.commands - before.commands,
        reads=after.reads - before.reads - (after.own_reads - before.own_reads),
        calls=after.calls - before.calls,
        count=count,
    )


def _mb(text: str) -> float:
    return int(text.split(maxsplit=1)[0]) / 1024


def _counts(stats: dict[str, Any]) -> dict[str, int]:
    names = {name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()}
    return {name: calls for name, calls in names.items() if name not in _OURS}
