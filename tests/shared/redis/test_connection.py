import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis

from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, RETRY_FOREVER, connect
from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import new_record
from shared.settings import read_settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import StartValkey, Valkey, created
from tests.support.lossy_line import LossyLine

pytestmark = pytest.mark.anyio

PASSWORD = ("--requirepass", "word")


def open_at(url: str, **environment: str) -> ArqRedis:
    return connect(read_settings({"REDIS_URL": url, **environment}), FAIL_FAST)


@asynccontextmanager
async def open_through(sentinels: str, url: str, master: str = "deer") -> AsyncIterator[ArqRedis]:
    redis = open_at(url, REDIS_SENTINELS=sentinels, REDIS_SENTINEL_MASTER=master)
    async with redis:
        yield redis


async def works(redis: ArqRedis) -> bool:
    """Return True if a store on this client writes and reads a record."""
    store = Store(redis)
    result = await store.create_or_update("abc", created("abc", store.now()))
    return result.record is not None and await store.get("abc") == result.record


async def test_url_with_host_and_port_connects(valkey_url: str):
    async with open_at(valkey_url) as redis:
        assert await works(redis)


async def test_url_of_a_socket_connects(start_valkey: StartValkey):
    server = start_valkey()
    async with open_at(f"unix://{server.socket}?db=2") as redis:
        assert await works(redis)
        assert (await redis.client_info())["db"] == 2


async def test_url_with_user_password_and_database_connects(start_valkey: StartValkey):
    server = start_valkey(*PASSWORD)
    async with open_at(f"redis://default:word@127.0.0.1:{server.port}/3") as redis:
        assert await works(redis)
        assert (await redis.client_info())["db"] == 3


@pytest.mark.parametrize("credentials", ["", ":mistaken@"])
async def test_wrong_password_raises_store_unavailable_without_the_password(
    start_valkey: StartValkey, credentials: str
):
    server = start_valkey(*PASSWORD)
    async with open_at(f"redis://{credentials}127.0.0.1:{server.port}/0") as redis:
        with pytest.raises(StoreUnavailable) as refusal:
            await Store(redis).get("abc")
    assert "mistaken" not in refusal.value.detail


def sentinel_of(start_valkey: StartValkey, master: Valkey) -> str:
    """Start a Sentinel that watches `master`, and return its `host:port`."""
    watch = f"sentinel monitor deer 127.0.0.1 {master.port} 1\nsentinel auth-pass deer word\n"
    return f"127.0.0.1:{start_valkey('--sentinel', config=watch).port}"


async def test_sentinels_name_the_master_and_the_url_gives_password_and_database(start_valkey: StartValkey):
    """The host of the URL is ignored."""
    master = start_valkey(*PASSWORD)
    sentinels = sentinel_of(start_valkey, master)
    async with open_through(sentinels, "redis://:word@nowhere.invalid:1/4") as redis:
        assert await works(redis)
        assert (await redis.config_get("port"))["port"] == str(master.port)
        assert (await redis.client_info())["db"] == 4


async def test_one_answering_sentinel_is_enough(start_valkey: StartValkey, away_url: str):
    master = start_valkey(*PASSWORD)
    away = away_url.removeprefix("redis://").removesuffix("/0")
    sentinels = f"{away}, {sentinel_of(start_valkey, master)}"
    async with open_through(sentinels, "redis://:word@localhost/0") as redis:
        assert await works(redis)


async def test_no_answering_sentinel_raises_store_unavailable(away_url: str):
    away = away_url.removeprefix("redis://").removesuffix("/0")
    async with open_through(away, away_url) as redis:
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("abc")


async def test_master_unknown_to_the_sentinels_raises_store_unavailable(start_valkey: StartValkey):
    sentinels = sentinel_of(start_valkey, start_valkey(*PASSWORD))
    async with open_through(sentinels, "redis://:word@localhost/0", master="elk") as redis:
        with pytest.raises(StoreUnavailable, match="elk"):
            await Store(redis).get("abc")


async def test_each_operation_of_the_store_raises_store_unavailable_with_retry_after_if_redis_is_down(away_url: str):
    record = new_record("abc", Spec(), cluster="default", now=0.0)
    async with open_at(away_url) as redis:
        store = Store(redis)
        operations = (
            store.get("abc"),
            store.all(),
            store.due(1),
            store.create_or_update("abc", lambda _: None),
            store.create_or_update("abc", lambda _: Update(record)),
            store.provisioning_workers(record),
        )
        errors = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable] * len(operations)
    assert {error.headers["Retry-After"] for error in errors if isinstance(error, StoreUnavailable)} == {"1"}


async def test_retries_are_bounded_if_redis_drops_each_connection():
    tries = 0

    async def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(drop, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_at(f"redis://127.0.0.1:{port}/0") as redis:
            with pytest.raises(StoreUnavailable):
                await Store(redis).get("abc")
    assert 0 < tries <= 10


async def test_store_works_again_after_an_outage_of_redis(start_valkey: StartValkey):
    """The restarted Redis has lost all scripts."""
    server = start_valkey()
    async with open_at(server.url) as redis:
        assert await works(redis)
        server.stop()
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("abc")
        server.start()
        assert await works(redis)


async def test_restart_of_redis_between_two_updates_is_hidden(start_valkey: StartValkey):
    server = start_valkey()
    async with open_at(server.url) as redis:
        store = Store(redis)
        await store.create_or_update("abc", created("abc", store.now()))
        server.stop()
        server.start()
        assert (await store.create_or_update("abd", created("abd", store.now()))).written


async def test_client_that_retries_forever_outlives_an_outage(start_valkey: StartValkey):
    server = start_valkey()
    async with connect(read_settings({"REDIS_URL": server.url}), RETRY_FOREVER) as redis:
        await redis.ping()
        server.stop()
        waiting = asyncio.ensure_future(redis.ping())
        async with open_at(server.url) as impatient:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await Store(impatient).get("abc")
        assert not waiting.done()
        server.start()
        assert await waiting


async def test_create_whose_reply_was_lost_writes_one_record_and_one_job(valkey: ArqRedis, valkey_url: str):
    """The client sends the create again. The store recognizes its own record."""
    line = LossyLine(valkey_url)
    async with line.listening() as url, open_at(url) as redis:
        store = Store(redis)
        await store.create_or_update("first", created("first", store.now()))
        line.lose = b"EVALSHA"
        result = await store.create_or_update("abc", created("abc", store.now()))
        assert line.lose is None
    record: Sandbox | None = await Store(valkey).get("abc")
    assert record is not None
    assert result == (record, False)
    assert record.revision == 1
    assert len(await valkey.keys(f"{keys.JOB}provision:abc:*")) == 1


async def test_client_that_retries_forever_outlives_dropped_handshakes(valkey_url: str):
    """A proxy in front of a dead Redis accepts connections and drops them; so does Redis at `maxclients`."""
    drops, port = 3, int(valkey_url.rpartition(":")[2].partition("/")[0])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drops
        if drops:
            drops -= 1
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(a: asyncio.StreamReader, b: asyncio.StreamWriter) -> None:
            while data := await a.read(65536):
                b.write(data)
            b.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        async with connect(read_settings({"REDIS_URL": url}), RETRY_FOREVER) as redis:
            assert await redis.ping()


async def test_closing_a_client_closes_its_connections_to_the_sentinels(start_valkey: StartValkey):
    master = start_valkey()
    redis: Any = open_at(master.url, REDIS_SENTINELS=sentinel_of(start_valkey, master), REDIS_SENTINEL_MASTER="deer")
    async with redis:
        await redis.ping()
    for sentinel in redis.connection_pool.sentinel_manager.sentinels:
        assert not any(c.is_connected for c in sentinel.connection_pool._available_connections)


def test_rediss_url_with_sentinels_means_tls_to_the_master():
    redis = open_at("rediss://h/0", REDIS_SENTINELS="h:1", REDIS_SENTINEL_MASTER="m")
    assert "SSL" in redis.connection_pool.connection_class.__name__
