"""The worker as a whole: in this process, and as the command `python -m worker`."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from arq.connections import ArqRedis

from deploy.local.stack import free_port
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Update
from tests.support.eventually import SECONDS, eventually, within
from tests.support.http import response_or_none
from tests.support.records import record_of
from tests.worker.conftest import Kubernetes, read
from worker.main import make_worker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's, of `aclose`
]

PLAIN = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
"""Variables of this process that a command needs. No other variable reaches it."""


@pytest.fixture
def live_store(store: Store) -> Store:
    """Return a store with the time of the processes."""
    return Store(store.redis)


async def accept(store: Store, sandbox_id: str, *, age: float = 0.0) -> None:
    """Write a record and its job as the API does."""
    record = record_of(sandbox_id, now=store.now() - age)
    await store.create_or_update(sandbox_id, lambda _: Update(record, (Job.of(JobKind.PROVISION, record),)))


@asynccontextmanager
async def command(root: Path, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python …` inside the context. At the end the process is killed if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=root,
        env={**PLAIN, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run_command(root: Path, *arguments: str, **environment: str) -> tuple[int | None, str]:
    """Return exit code and output of a command that ends by itself."""
    async with command(root, *arguments, **environment) as process:
        output, _ = await within(process.communicate())
        return process.returncode, output.decode()


async def stop(process: asyncio.subprocess.Process) -> str:
    """Stop the process with SIGTERM, and return its output."""
    process.send_signal(signal.SIGTERM)
    output, _ = await within(process.communicate())
    return output.decode()


async def until_registered(redis: ArqRedis) -> None:
    async def is_registered() -> bool:
        return bool(await redis.zcard(keys.WORKERS))

    await eventually(is_registered, "a worker sends heartbeats")


async def test_make_worker_registers_all_kinds_of_jobs_and_one_sweep_an_interval(settings: Settings):
    worker = make_worker(settings, handle_signals=False)
    try:
        assert set(JobKind) <= worker.functions.keys()
        assert [scheduled.unique for scheduled in worker.cron_jobs] == [True]
    finally:
        await worker.close()


async def test_worker_does_all_jobs_and_leaves_nothing(settings: Settings, live_store: Store, kubernetes: Kubernetes):
    await accept(live_store, "abc")
    worker = make_worker(settings, handle_signals=False)
    task = asyncio.create_task(worker.async_run())

    async def is_done() -> bool:
        return (await read(live_store, "abc")).is_provisioned and not await live_store.redis.keys("arq:*")

    try:
        await eventually(is_done, "the sandbox is provisioned, and no job is left")
    finally:
        await worker.close()
        task.cancel()
        await asyncio.wait([task])
    assert worker.jobs_complete >= 1  # a sweep may have run, too
    assert worker.jobs_failed == 0
    assert await kubernetes.names("pods") == ["sandbox-abc"]
    assert await live_store.redis.zcard(keys.WORKERS) == 0


async def test_worker_sweeps_every_sweep_interval(
    environment: dict[str, str], live_store: Store, kubernetes: Kubernetes, valkey: ArqRedis
):
    """The record's job is lost. Only a sweep can enqueue another one."""
    await accept(live_store, "abc", age=STALLED_SECONDS)
    await valkey.delete(keys.QUEUE)
    settings = read_settings({**environment, "SWEEP_INTERVAL_SECONDS": "0.3"})
    worker = make_worker(settings, handle_signals=False)
    task = asyncio.create_task(worker.async_run())

    async def is_provisioned() -> bool:
        return (await read(live_store, "abc")).is_provisioned

    try:
        await eventually(is_provisioned, "another job provisions the sandbox")
    finally:
        task.cancel()
        await asyncio.wait([task])
        await worker.close()
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_command_works_until_sigterm_and_releases_its_lease(
    environment: dict[str, str], live_store: Store, kubernetes: Kubernetes, root: Path, valkey: ArqRedis
):
    async with command(root, "-m", "worker", **environment) as process:
        await accept(live_store, "abc")

        async def is_ready() -> bool:
            return (await read(live_store, "abc")).ready

        await eventually(is_ready, "the sandbox is ready")
        output = await stop(process)
    assert process.returncode == 0, output
    assert not await valkey.exists("leader:default")
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_command_removes_its_heartbeat_at_the_end(
    environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes
):
    assert await kubernetes.names("pods") == []
    async with command(root, "-m", "worker", **environment) as process:
        await until_registered(valkey)
        await stop(process)
    assert process.returncode == 0
    assert await valkey.zrange("workers", 0, -1) == []


async def test_command_with_check_tells_if_a_worker_of_this_host_is_alive(
    environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes
):
    check = ("-m", "worker", "--check")
    assert await valkey.ping()
    code, output = await run_command(root, *check, **environment)
    assert code == 1
    assert "No worker" in output
    async with command(root, "-m", "worker", **environment):
        await until_registered(valkey)
        code, output = await run_command(root, *check, **environment)
        assert code == 0, output
        assert await kubernetes.names("pods") == []


async def test_command_with_ready_needs_a_synced_cluster_too(
    environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes, sync: ClusterSync
):
    check = ("-m", "worker", "--ready")
    await valkey.flushall()
    code, output = await run_command(root, *check, **environment)
    assert code == 1
    assert "No worker on this host" in output
    assert "No worker has synced" in output
    async with command(root, "-m", "worker", **environment):
        await eventually(sync.has_synced, "the cluster is synced")
        code, output = await run_command(root, *check, **environment)
        assert code == 0, output
        assert await kubernetes.names("pods") == []


async def test_command_is_ready_while_it_fetches_jobs(
    environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes
):
    assert await valkey.ping()
    url = f"http://127.0.0.1:{(port := free_port())}"
    serving = {**environment, "WORKER_METRICS_PORT": str(port)}
    async with command(root, "-m", "worker", **serving), httpx.AsyncClient(trust_env=False) as client:

        async def is_ready() -> bool:
            response = await response_or_none(client, f"{url}/health/ready")
            return response is not None and response.status_code == 200

        await eventually(is_ready, "the worker fetches jobs")
        assert await kubernetes.names("pods") == []


async def test_command_without_redis_is_alive_and_not_ready(environment: dict[str, str], root: Path, away_url: str):
    """The worker waits for Redis, and says so."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    serving = {**environment, "REDIS_URL": away_url, "WORKER_METRICS_PORT": str(port)}
    async with command(root, "-m", "worker", **serving), httpx.AsyncClient(trust_env=False) as client:

        async def get_system() -> httpx.Response | None:
            return await response_or_none(client, f"{url}/health/system", timeout=SECONDS)

        response = await eventually(get_system, "the worker answers over HTTP")
        assert response.status_code == 503
        assert "Redis does not answer" in response.json()["missing"][0]
        assert (await client.get(f"{url}/health/ready")).status_code == 503
        assert (await client.get(f"{url}/health")).status_code == 200


async def test_command_with_check_without_redis_fails_with_the_cause(
    environment: dict[str, str], root: Path, away_url: str
):
    code, output = await run_command(root, "-m", "worker", "--check", **{**environment, "REDIS_URL": away_url})
    assert code == 1
    assert "Redis does not answer" in output
    assert "Traceback" not in output


async def test_command_stopped_while_it_waits_for_redis_ends(environment: dict[str, str], root: Path, away_url: str):
    port = free_port()
    serving = {**environment, "REDIS_URL": away_url, "WORKER_METRICS_PORT": str(port)}
    async with command(root, "-m", "worker", **serving) as process, httpx.AsyncClient(trust_env=False) as client:

        async def is_up() -> bool:
            return await response_or_none(client, f"http://127.0.0.1:{port}/health") is not None

        await eventually(is_up, "the worker answers over HTTP")
        output = await stop(process)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_CONTAINER_PORT", "0"),
        ("SANDBOX_SERVICE_TYPE", "LoadBalancer"),
        ("THREADS_HOST_PATH", "threads"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{sandbox_id}"),
        ("WORKER_MAX_JOBS", "many"),
    ],
)
async def test_command_with_wrong_setting_refuses_to_start_and_names_it(root: Path, name: str, value: str):
    code, output = await run_command(root, "-m", "worker", **{name: value})
    assert code == 2
    assert name in output
    assert "Traceback" not in output


async def test_command_with_directory_as_kubeconfig_names_the_setting(
    environment: dict[str, str], root: Path, tmp_path: Path, valkey: ArqRedis
):
    assert await valkey.ping()
    code, output = await run_command(root, "-m", "worker", **{**environment, "KUBECONFIG_PATH": str(tmp_path)})
    assert code
    assert "KUBECONFIG_PATH: expected a file" in output
    assert "Traceback" not in output


async def test_command_with_print_settings_shows_values_without_secrets(root: Path):
    url = "redis://:hidden@redis:6379/0"
    code, output = await run_command(root, "-m", "worker", "--print-settings", REDIS_URL=url, WORKER_MAX_JOBS="7")
    assert code == 0
    assert "WORKER_MAX_JOBS=7" in output
    assert "hidden" not in output
