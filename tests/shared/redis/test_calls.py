"""Calls to a Redis that goes silent: one deadline for all retries, and no reply left for the next call."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from arq.connections import ArqRedis

from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.calls import CALL_SECONDS, redis_call
from shared.redis.connection import FAIL_FAST, RETRY_FOREVER, CappedBackoff, connect, subscribe
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import StartValkey, created
from tests.support.eventually import within
from tests.support.lossy_line import LossyLine

pytestmark = pytest.mark.anyio

PROMISED_SECONDS = 2.0
"""Time within which the API promises its 503."""


@pytest.fixture
async def line(valkey: ArqRedis, valkey_url: str) -> AsyncIterator[LossyLine]:
    """Open a line to an empty Valkey."""
    assert await valkey.dbsize() == 0
    line = LossyLine(valkey_url)
    async with line.listening() as line.url:
        yield line


def open_at(url: str) -> ArqRedis:
    return connect(read_settings({"REDIS_URL": url}), FAIL_FAST)


@pytest.mark.parametrize("is_connected", [True, False])
async def test_each_call_to_a_silent_redis_fails_in_time(line: LossyLine, is_connected: bool):
    """A silent host loses what is sent on an open connection, and the handshake of a new one."""
    async with open_at(line.url) as redis:
        store = Store(redis)
        if is_connected:
            await store.get("abc")
        line.silent = True
        calls = (
            store.get("abc"),
            store.create_or_update("abc", created("abc", store.now())),
            WorkerRegistry(redis, store.now).beat("worker"),
            ClusterSync(redis, store.now, "default").synced_at(),
        )
        for call in calls:
            started_at = time.monotonic()
            with pytest.raises(StoreUnavailable, match="no reply within"):
                await call
            assert time.monotonic() - started_at < PROMISED_SECONDS
        line.silent = False
        assert await store.get("abc") is None


async def test_concurrent_calls_to_a_silent_redis_all_fail_in_time(line: LossyLine):
    """They share one pool, in which one connection is opened after the other."""
    async with open_at(line.url) as redis:
        store = Store(redis)
        line.silent = True
        started_at = time.monotonic()
        results = await asyncio.gather(*(store.get(f"s{n}") for n in range(50)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
        assert time.monotonic() - started_at < PROMISED_SECONDS
        line.silent = False
        assert await store.get("abc") is None


async def test_host_that_accepts_no_connection_fails_in_time():
    """The kernel drops further connections once the backlog of a listener that accepts none is full."""
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        async with open_at(f"redis://127.0.0.1:{listener.getsockname()[1]}/0") as redis:
            started_at = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await Store(redis).get("abc")
    assert time.monotonic() - started_at < PROMISED_SECONDS


async def test_call_cancelled_in_the_middle_leaves_no_reply_for_the_next_one(start_valkey: StartValkey):
    """The frozen server answers the abandoned commands as soon as it goes on."""
    server = start_valkey()
    async with open_at(server.url) as redis:
        await redis.mset({f"k{number}": number for number in range(20)})
        for number in range(5):
            with server.frozen():
                abandoned = [asyncio.ensure_future(redis.get(f"k{10 + n}")) for n in range(number + 1)]
                await asyncio.sleep(0.01 * number)
                for task in abandoned:
                    task.cancel()
                await asyncio.gather(*abandoned, return_exceptions=True)
            replies = [await redis.get(f"k{n}") for n in range(10)]
            assert replies == [str(n).encode() for n in range(10)]


async def test_call_beyond_its_deadline_is_retried_by_nobody(start_valkey: StartValkey):
    """The next call has a connection of its own, and the whole time."""
    server = start_valkey()
    async with open_at(server.url) as redis:
        store = Store(redis)
        await store.get("abc")
        with server.frozen(), pytest.raises(StoreUnavailable):
            await store.get("abc")
        assert await within(store.get("abc"), CALL_SECONDS) is None


async def test_deadline_of_the_caller_stays_the_callers():
    """`redis_call` translates its own deadline only."""

    async def call() -> None:
        async with asyncio.timeout(0.01), redis_call():
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        await call()


async def test_subscription_whose_connection_timed_out_raises_store_unavailable(valkey: ArqRedis):
    """redis-py takes the kernel's ETIMEDOUT for "nothing came in time", and would return that without a pause."""
    messages = subscribe(valkey, "channel")
    assert await anext(messages) is None
    (connection,) = connections_in_use(valkey)
    connection._reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    with pytest.raises(StoreUnavailable, match="broken"):
        await within(anext(messages), 1.0)


def connections_in_use(redis: ArqRedis) -> list[Any]:
    return list(redis.connection_pool._in_use_connections)


@pytest.mark.parametrize("retry", [FAIL_FAST, RETRY_FOREVER], ids=["fail fast", "retry forever"])
async def test_subscription_that_is_not_confirmed_fails_in_time(line: LossyLine, retry: Any):
    async with connect(read_settings({"REDIS_URL": line.url}), retry) as redis:
        await redis.ping()
        line.silent = True
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await anext(subscribe(redis, "channel"))
        assert time.monotonic() - started_at < 2 * CALL_SECONDS + 0.5


def test_backoff_of_any_number_of_failures_stays_below_its_cap():
    """redis-py's own raises OverflowError after 1,023 failures: a worker would end 17 minutes after Redis."""
    backoff = CappedBackoff(cap=1.0, base=0.02)
    assert [backoff.compute(failures) for failures in (1, 1024, 10**6)] == [0.04, 1.0, 1.0]
