import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker

from deploy.local.stack import free_port
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Update
from tests.support.records import record_of
from tests.worker.conftest import SECONDS, Kubernetes, eventually, read
from worker.jobs.queue_worker import QueueWorker
from worker.main import arq_settings

pytestmark = pytest.mark.anyio

PLAIN = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
"""Nothing of the tests' own environment may set anything."""


@pytest.fixture
def here(store: Store) -> Store:
    """With the time of the processes: what is accepted in another is past its deadline at once."""
    return Store(store.redis)


async def accept(store: Store, sandbox_id: str) -> None:
    """A record and its job, as the API writes them."""
    record = record_of(sandbox_id, now=store.now())
    await store.create_or_update(sandbox_id, lambda _: Update(record, (Job.of(JobKind.PROVISION, record),)))


@asynccontextmanager
async def command(root: Path, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python …` as a process, which is killed if it does not end."""
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


async def ended(root: Path, *arguments: str, **environment: str) -> tuple[int | None, str]:
    """Exit code and output of a command that ends by itself."""
    async with command(root, *arguments, **environment) as process, asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
        return process.returncode, output.decode()


ARQ_CLOSES_SO = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
"""arq 0.28 calls redis-py's old name for `aclose`."""


@ARQ_CLOSES_SO
async def test_arq_takes_the_settings(settings: Settings):
    """What we hand to arq's Worker are arguments it has, and the jobs have the names that the queue uses."""
    worker = Worker(**arq_settings(settings), handle_signals=False)
    try:
        assert set(JobKind) <= worker.functions.keys()
        assert [job.unique for job in worker.cron_jobs] == [True]
        assert worker.keep_result_s == 0
    finally:
        await worker.close()


@ARQ_CLOSES_SO
async def test_a_burst(settings: Settings, here: Store, kubernetes: Kubernetes):
    """A worker does the jobs that wait, closes all it has opened, and leaves no result behind."""
    await accept(here, "abc")
    worker = QueueWorker(**arq_settings(settings), handle_signals=False, burst=True)
    try:
        async with asyncio.timeout(SECONDS):
            await worker.async_run()
    finally:
        await worker.close()
    assert worker.jobs_complete >= 1  # every ten seconds there is a sweep too
    assert worker.jobs_failed == 0
    assert (await read(here, "abc")).is_provisioned
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_arqs_own_command(environment: dict[str, str], here: Store, kubernetes: Kubernetes, root: Path):
    """`arq worker.main.WorkerSettings` finds the settings by that name, and works."""
    await accept(here, "abc")
    code, output = await ended(root, "-m", "arq", "worker.main.WorkerSettings", "--burst", **environment)
    assert code == 0, output
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_importing_reads_no_settings(root: Path):
    """Only who asks for the settings needs an environment that is right; other names are not there."""
    words = "import worker.main; worker.main.absent"
    code, output = await ended(root, "-c", words, SANDBOX_CONTAINER_PORT="0")
    assert code == 1
    assert "AttributeError: absent" in output


async def test_the_command(
    environment: dict[str, str], here: Store, kubernetes: Kubernetes, root: Path, valkey: ArqRedis
):
    """`python -m worker` works until it is told to stop, gives back what it holds, and ends well."""
    async with command(root, "-m", "worker", **environment) as process:
        await accept(here, "abc")

        async def ready() -> bool:
            return (await read(here, "abc")).ready

        await eventually(ready, "the sandbox is made and observed")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert not await valkey.exists("leader:default")
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_the_health_check(environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes):
    """`--check` fails until a worker of this host has said that it lives."""
    check = ("-m", "worker", "--check")
    assert await valkey.ping()
    code, output = await ended(root, *check, **environment)
    assert code == 1
    assert "No worker" in output
    async with command(root, "-m", "worker", **environment):

        async def alive() -> bool:
            return bool(await valkey.zcard("workers"))

        await eventually(alive, "the worker has said that it lives")
        code, output = await ended(root, *check, **environment)
        assert code == 0, output
        assert await kubernetes.names("pods") == []


async def test_the_check_of_readiness(
    environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes, sync: ClusterSync
):
    """`--ready` names all that is missing, and needs a cluster that was observed beside a worker that lives."""
    check = ("-m", "worker", "--ready")
    await valkey.flushall()
    code, output = await ended(root, *check, **environment)
    assert code == 1
    assert "No worker" in output
    assert "never observed" in output
    async with command(root, "-m", "worker", **environment):
        await eventually(sync.has_synced, "the cluster was observed")
        code, output = await ended(root, *check, **environment)
        assert code == 0, output
        assert await kubernetes.names("pods") == []


async def test_a_worker_that_left(environment: dict[str, str], root: Path, valkey: ArqRedis, kubernetes: Kubernetes):
    """A worker that was told to stop does not count as alive for a moment longer."""
    assert await kubernetes.names("pods") == []
    async with command(root, "-m", "worker", **environment) as process:

        async def alive() -> bool:
            return bool(await valkey.zcard("workers"))

        await eventually(alive, "the worker has said that it lives")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            await process.communicate()
    assert process.returncode == 0
    assert await valkey.zrange("workers", 0, -1) == []


async def test_a_worker_without_redis(environment: dict[str, str], root: Path, away_url: str):
    """A worker that waits for its Redis says over HTTP that it lives, is not ready, and why."""
    port = free_port()
    mine = {**environment, "REDIS_URL": away_url, "WORKER_METRICS_PORT": str(port)}
    async with command(root, "-m", "worker", **mine), httpx.AsyncClient(trust_env=False) as outside:

        async def answered() -> httpx.Response | None:
            with suppress(httpx.HTTPError):
                return await outside.get(f"http://127.0.0.1:{port}/health/ready", timeout=SECONDS)
            return None

        answer = await eventually(answered, "the worker answers over HTTP")
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.json()["missing"][0]
        assert (await outside.get(f"http://127.0.0.1:{port}/health")).status_code == 200


async def test_the_health_check_without_redis(environment: dict[str, str], root: Path, away_url: str):
    """While Redis is away, `--check` fails and says why."""
    code, output = await ended(root, "-m", "worker", "--check", **{**environment, "REDIS_URL": away_url})
    assert code == 1
    assert "Redis does not answer" in output
    assert "Traceback" not in output


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
async def test_a_wrong_setting(root: Path, name: str, value: str):
    """A worker whose environment breaks a rule refuses to start, as a command used wrongly does, and names it."""
    code, output = await ended(root, "-m", "worker", **{name: value})
    assert code == 2
    assert name in output
    assert "Traceback" not in output


async def test_a_kubeconfig_that_is_a_directory(
    environment: dict[str, str], root: Path, tmp_path: Path, valkey: ArqRedis
):
    """A worker that finds no cluster refuses to start, and names the setting that should say where it is."""
    assert await valkey.ping()
    code, output = await ended(root, "-m", "worker", **{**environment, "KUBECONFIG_PATH": str(tmp_path)})
    assert code
    assert "KUBECONFIG_PATH: expected a file" in output
    assert "Traceback" not in output


async def test_settings_are_shown(root: Path):
    """`--print-settings` shows what is in force, and no secret."""
    url = "redis://:hidden@redis:6379/0"
    code, output = await ended(root, "-m", "worker", "--print-settings", REDIS_URL=url, WORKER_MAX_JOBS="7")
    assert code == 0
    assert "WORKER_MAX_JOBS=7" in output
    assert "hidden" not in output
