"""The system under measurement: real processes, started for one measurement, so that none sees what another left."""

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
from shared.store import keys
from shared.store.store import Store
from tests.bench.load import UnexpectedStatus
from tests.bench.meter import Meter
from tests.bench.plain import open_plain
from tests.bench.report import Report
from tests.bench.wire import ConnectionLost, Wire

LARGE_LIMIT = {"NODE_PORT_CAPACITY": "1000000"}
"""A limit that is checked as usual, but never reached: for more records than a cluster has node ports."""
DELAYED_VERBS = ("create", "get", "list", "delete")
"""Every verb of the product but watch, which the leader calls once for many events."""
LOG_LINES = 30
"""Last lines of the processes' output, which a failure shows."""

_record = msgspec.json.Decoder(Sandbox).decode


class Context(NamedTuple):
    """Options and results that all measurements share.

    `n` scales every count of requests. Without `kubeconfig` the cluster is emulated: its statuses can be written, and
    each call to the cluster takes `call_seconds` longer.
    """

    n: int
    kubeconfig: Path | None
    report: Report
    lines: deque[str]
    call_seconds: float = 0.0

    @property
    def is_emulated(self) -> bool:
        return self.kubeconfig is None


class System(NamedTuple):
    """A started system. `settings` are those of its workers. `bare` is the client of the bare handlers."""

    context: Context
    stack: Stack
    settings: Settings
    redis: Redis
    store: Store
    api: Wire
    bare: Wire
    meter: Meter

    async def record(self, sandbox_id: str) -> Sandbox | None:
        self.meter.own_reads += 1
        raw = await self.redis.getrange(keys.record(sandbox_id), 0, -1)
        return _record(raw) if raw else None

    async def records(self, ids: list[str]) -> list[Sandbox | None]:
        """Return one record an id, read in one round trip."""
        self.meter.own_reads += 1
        pipeline = self.redis.pipeline(transaction=False)
        for sandbox_id in ids:
            pipeline.getrange(keys.record(sandbox_id), 0, -1)
        return [_record(raw) if raw else None for raw in await pipeline.execute()]


@asynccontextmanager
async def open_system(context: Context, *, workers: int, **environment: str) -> AsyncIterator[System]:
    """Start one API process, `workers` workers and the bare server. All of them get `environment`."""
    options = _options(context, workers, environment)
    async with AsyncExitStack() as exit_stack:
        if context.kubeconfig is not None:
            exit_stack.push_async_callback(_remove_namespace, _settings(options, context.kubeconfig))
        stack = await exit_stack.enter_async_context(Stack(options))
        if context.call_seconds:
            await _delay_calls(stack, context.call_seconds)
        bare, process = await _start_bare(exit_stack, stack, options)
        settings = _settings(options, stack.kubeconfig)
        redis = await exit_stack.enter_async_context(connect(replace(settings, redis_url=stack.redis_url), FAIL_FAST))
        store = Store(redis)
        await store.set_clock()
        api = Wire(stack.urls[0], {"X-API-Key": stack.key})
        exit_stack.callback(api.close)
        meter = Meter(stack, redis, {process.name: process.pid})
        yield System(context, stack, settings, redis, store, api, bare, meter)


def _options(context: Context, workers: int, environment: dict[str, str]) -> Options:
    """Return the stack's options. Each system has a loopback address of its own, because all draw the same ports."""
    host = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(200)}.{secrets.randbelow(200) + 1}"

    def keep(name: str, line: str) -> None:
        context.lines.append(f"{name:>12} | {line}")

    return Options(
        workers=workers,
        kubeconfig=context.kubeconfig,
        port=0,
        emulator=("--node-address", host),
        environment={
            "K8S_NAMESPACE": f"deer-flow-bench-{secrets.token_hex(4)}",
            "NODE_HOST": host if context.is_emulated else os.environ.get("NODE_HOST", "127.0.0.1"),
            "LOG_FORMAT": "json",
            **environment,
        },
        show=keep,
    )


async def _delay_calls(stack: Stack, seconds: float) -> None:
    headers = {"Authorization": f"Bearer {stack.emulator_token}"}
    rules = [{"kind": "delay", "seconds": seconds, "verb": verb} for verb in DELAYED_VERBS]
    async with httpx.AsyncClient(base_url=stack.emulator_url, headers=headers) as emulator:
        (await emulator.put("/emulator/faults", json=rules)).raise_for_status()


def _settings(options: Options, kubeconfig: Path) -> Settings:
    return read_settings({**os.environ, **options.environment, "KUBECONFIG_PATH": str(kubeconfig)})


async def _remove_namespace(settings: Settings) -> None:
    """Remove the namespace from a real cluster, which outlives the run. Without a sandbox there is no namespace."""
    async with open_plain(settings) as client:
        with suppress(UnexpectedStatus):
            await client.remove_namespace()


async def _start_bare(exit_stack: AsyncExitStack, stack: Stack, options: Options) -> tuple[Wire, Process]:
    port = str(free_port())
    environment = {**options.environment, "REDIS_URL": stack.redis_url, "PROVISIONER_API_KEY": stack.key}
    command = [sys.executable, "-m", "tests.bench.bare", "--port", port]
    process = await Process.start("bare", command, environment, options.show)
    exit_stack.push_async_callback(process.stop)
    wire = Wire(f"http://127.0.0.1:{port}")
    exit_stack.callback(wire.close)

    async def answers() -> bool:
        try:
            return (await wire.request("GET", "/")).status > 0
        except (ConnectionLost, OSError):
            return False

    await wait_until(answers, process)
    return wire, process
