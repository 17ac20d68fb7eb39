"""The real processes, begun anew for each measurement, so that none finds what another has left."""

import os
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from msgspec.structs import replace
from redis.asyncio import Redis

from deploy.local.processes import Process
from deploy.local.stack import Options, Stack, free_port, wait_until
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Sandbox
from shared.settings import Settings, read_settings
from shared.store.store import Store
from tests.bench.load import Refused
from tests.bench.meter import Meter
from tests.bench.plain import plain
from tests.bench.report import Report
from tests.bench.wire import Lost, Wire

ROOM = {"NODE_PORT_CAPACITY": "1000000"}
"""Counted against, as ever, but never reached: for more records than a cluster has node ports."""
SLOWED = ("create", "get", "list", "delete")
"""Every verb that the product uses but watch, which is asked for once and then only tells."""
LINES_KEPT = 30
"""Of what the processes say, for whoever has to explain a failure."""

_record = msgspec.json.Decoder(Sandbox).decode


class Given(NamedTuple):
    """`n` scales every count of requests. `kubeconfig` None: an emulated cluster, whose statuses can be written, and
    each call to which takes `call_seconds` longer, whoever makes it."""

    n: int
    kubeconfig: Path | None
    report: Report
    lines: deque[str]
    call_seconds: float = 0.0

    @property
    def is_emulated(self) -> bool:
        return self.kubeconfig is None


class System(NamedTuple):
    """`settings` as its workers have them. `bare`: the limit of what answers over HTTP."""

    given: Given
    stack: Stack
    settings: Settings
    redis: Redis
    store: Store
    api: Wire
    bare: Wire
    meter: Meter

    async def record(self, sandbox_id: str) -> Sandbox | None:
        self.meter.own_reads += 1
        raw = await self.redis.getrange(f"sandbox:{sandbox_id}", 0, -1)
        return _record(raw) if raw else None

    async def records(self, ids: list[str]) -> list[Sandbox | None]:
        """In one round trip."""
        self.meter.own_reads += 1
        pipeline = self.redis.pipeline(transaction=False)
        for sandbox_id in ids:
            pipeline.getrange(f"sandbox:{sandbox_id}", 0, -1)
        return [_record(raw) if raw else None for raw in await pipeline.execute()]


@asynccontextmanager
async def system(given: Given, *, workers: int, **environment: str) -> AsyncIterator[System]:
    """One API process, so many workers, and the bare server; `environment` is added to what all of them get."""
    host = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(200)}.{secrets.randbelow(200) + 1}"

    def keep(name: str, line: str) -> None:
        given.lines.append(f"{name:>12} | {line}")

    options = Options(
        workers=workers,
        kubeconfig=given.kubeconfig,
        port=0,
        emulator=("--node-address", host),
        environment={
            "K8S_NAMESPACE": f"deer-flow-bench-{secrets.token_hex(4)}",
            "NODE_HOST": host if given.is_emulated else os.environ.get("NODE_HOST", "127.0.0.1"),
            "LOG_FORMAT": "json",
            **environment,
        },
        show=keep,
    )
    async with AsyncExitStack() as stack:
        if given.kubeconfig is not None:
            stack.push_async_callback(_remove_namespace, _settings(options, given.kubeconfig))
        started = await stack.enter_async_context(Stack(options))
        if given.call_seconds:
            await _slow(started, given.call_seconds)
        bare, process = await _bare(stack, started, options)
        settings = _settings(options, started.kubeconfig)
        redis = await stack.enter_async_context(connect(replace(settings, redis_url=started.redis_url), FAIL_FAST))
        store = Store(redis)
        await store.set_clock()
        api = Wire(started.urls[0], {"X-API-Key": started.key})
        stack.callback(api.close)
        meter = Meter(started, redis, {process.name: process.pid})
        yield System(given, started, settings, redis, store, api, bare, meter)


async def _slow(stack: Stack, seconds: float) -> None:
    headers = {"Authorization": f"Bearer {stack.emulator_token}"}
    rules = [{"kind": "delay", "seconds": seconds, "verb": verb} for verb in SLOWED]
    async with httpx.AsyncClient(base_url=stack.emulator_url, headers=headers) as emulator:
        (await emulator.put("/emulator/faults", json=rules)).raise_for_status()


def _settings(options: Options, kubeconfig: Path) -> Settings:
    return read_settings({**os.environ, **options.environment, "KUBECONFIG_PATH": str(kubeconfig)})


async def _remove_namespace(settings: Settings) -> None:
    """A real cluster outlives the run. (Where nothing was made, there is no namespace.)"""
    async with plain(settings) as client:
        with suppress(Refused):
            await client.remove_namespace()


async def _bare(stack: AsyncExitStack, started: Stack, options: Options) -> tuple[Wire, Process]:
    port = str(free_port())
    environment = {**options.environment, "REDIS_URL": started.redis_url, "PROVISIONER_API_KEY": started.key}
    command = [sys.executable, "-m", "tests.bench.bare", "--port", port]
    process = await Process.start("bare", command, environment, options.show)
    stack.push_async_callback(process.stop)
    wire = Wire(f"http://127.0.0.1:{port}")
    stack.callback(wire.close)

    async def answers() -> bool:
        try:
            return (await wire.ask("GET", "/")).status > 0
        except (Lost, OSError):
            return False

    await wait_until(answers, process)
    return wire, process
