import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    """Whether a store on it keeps what it is given."""
    store = Store(redis)
    outcome = await store.create_or_update("abc", created("abc", store.now()))
    return outcome.record is not None and await store.get("abc") == outcome.record


async def test_url(valkey_url: str):
    """A URL names host and port."""
    async with open_at(valkey_url) as redis:
        assert await works(redis)


async def test_socket(start_valkey: StartValkey):
    """A URL may name a socket instead."""
    server = start_valkey()
    async with open_at(f"unix://{server.socket}?db=2") as redis:
        assert await works(redis)
        assert (await redis.client_info())["db"] == 2


async def test_password(start_valkey: StartValkey):
    """A URL may hold a user, a password, and the number of a database."""
    server = start_valkey(*PASSWORD)
    async with open_at(f"redis://default:word@127.0.0.1:{server.port}/3") as redis:
        assert await works(redis)
        assert (await redis.client_info())["db"] == 3


@pytest.mark.parametrize("credentials", ["", ":mistaken@"])
async def test_wrong_password(start_valkey: StartValkey, credentials: str):
    """A Redis that does not let us in is a Redis that is not available, and the password is not told."""
    server = start_valkey(*PASSWORD)
    async with open_at(f"redis://{credentials}127.0.0.1:{server.port}/0") as redis:
        with pytest.raises(StoreUnavailable) as refused:
            await Store(redis).get("abc")
    assert "mistaken" not in refused.value.detail


def sentinel_of(start_valkey: StartValkey, master: Valkey) -> str:
    """`host:port` of a Sentinel that watches it."""
    watch = f"sentinel monitor deer 127.0.0.1 {master.port} 1\nsentinel auth-pass deer word\n"
    return f"127.0.0.1:{start_valkey('--sentinel', config=watch).port}"


async def test_sentinel(start_valkey: StartValkey):
    """Sentinels say where the master is; password and database come from the URL, whose host is not asked."""
    master = start_valkey(*PASSWORD)
    sentinels = sentinel_of(start_valkey, master)
    async with open_through(sentinels, "redis://:word@nowhere.invalid:1/4") as redis:
        assert await works(redis)
        assert (await redis.config_get("port"))["port"] == str(master.port)
        assert (await redis.client_info())["db"] == 4


async def test_some_sentinel(start_valkey: StartValkey, away_url: str):
    """One Sentinel that answers is enough."""
    master = start_valkey(*PASSWORD)
    away = away_url.removeprefix("redis://").removesuffix("/0")
    sentinels = f"{away}, {sentinel_of(start_valkey, master)}"
    async with open_through(sentinels, "redis://:word@localhost/0") as redis:
        assert await works(redis)


async def test_no_sentinel(away_url: str):
    """Without any Sentinel that answers, Redis is not available."""
    away = away_url.removeprefix("redis://").removesuffix("/0")
    async with open_through(away, away_url) as redis:
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("abc")


async def test_sentinel_of_another_master(start_valkey: StartValkey):
    """A master that no Sentinel knows is not available."""
    sentinels = sentinel_of(start_valkey, start_valkey(*PASSWORD))
    async with open_through(sentinels, "redis://:word@localhost/0", master="elk") as redis:
        with pytest.raises(StoreUnavailable, match="elk"):
            await Store(redis).get("abc")


async def test_away(away_url: str):
    """While Redis is away, whatever is asked of the store says so, and what to do: try again in a second."""
    record = new_record("abc", Spec(), cluster="default", now=0.0)
    async with open_at(away_url) as redis:
        store = Store(redis)
        asked = (
            store.get("abc"),
            store.all(),
            store.due(1),
            store.create_or_update("abc", lambda _: None),
            store.create_or_update("abc", lambda _: Update(record)),
            store.provisioning_workers(record),
        )
        errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable] * len(asked)
    assert {error.headers["Retry-After"] for error in errors if isinstance(error, StoreUnavailable)} == {"1"}


async def test_tries_are_bounded():
    """A Redis that takes connections and drops them is given up after a few tries at most."""
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


async def test_returns(start_valkey: StartValkey):
    """A store whose Redis went away and came back works again by itself, with nothing of what Redis had learnt."""
    server = start_valkey()
    async with open_at(server.url) as redis:
        assert await works(redis)
        server.stop()
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("abc")
        server.start()
        assert await works(redis)


async def test_restarted(start_valkey: StartValkey):
    """Whoever asks nothing while Redis restarts does not notice."""
    server = start_valkey()
    async with open_at(server.url) as redis:
        store = Store(redis)
        await store.create_or_update("abc", created("abc", store.now()))
        server.stop()
        server.start()
        assert (await store.create_or_update("abd", created("abd", store.now()))).written


async def test_patience(start_valkey: StartValkey):
    """The client of arq's loop waits for Redis, however long it is away."""
    server = start_valkey()
    async with connect(read_settings({"REDIS_URL": server.url}), RETRY_FOREVER) as redis:
        await redis.ping()
        server.stop()
        waiting = asyncio.create_task(redis.ping())
        async with open_at(server.url) as hasty:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await Store(hasty).get("abc")
        assert not waiting.done()
        server.start()
        assert await waiting


async def test_lost_answer(valkey: ArqRedis, valkey_url: str):
    """A create that was carried out, but whose answer was lost, is found done: one record, one job, no error."""
    line = LossyLine(valkey_url)
    async with line.listening() as url, open_at(url) as redis:
        store = Store(redis)
        await store.create_or_update("first", created("first", store.now()))
        line.lose = b"EVALSHA"
        outcome = await store.create_or_update("abc", created("abc", store.now()))
        assert line.lose is None
    record: Sandbox | None = await Store(valkey).get("abc")
    assert record is not None
    assert outcome == (record, False)
    assert record.revision == 1
    assert len(await valkey.keys(f"{keys.JOB}provision:abc:*")) == 1


async def test_patient_survives_dropped_handshakes(valkey_url: str):
    """A proxy that accepts and drops while Redis is away (docker-proxy, haproxy, maxclients) is waited for, too."""
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


async def test_sentinels_are_closed(start_valkey: StartValkey):
    """Closing a client closes its connections to the Sentinels, too."""
    master = start_valkey()
    redis = open_at(master.url, REDIS_SENTINELS=sentinel_of(start_valkey, master), REDIS_SENTINEL_MASTER="deer")
    async with redis:
        await redis.ping()
    for sentinel in redis.connection_pool.sentinel_manager.sentinels:
        assert not any(c.is_connected for c in sentinel.connection_pool._available_connections)


def test_tls_through_sentinels():
    """`rediss://` means TLS to the master that the Sentinels name."""
    redis = open_at("rediss://h/0", REDIS_SENTINELS="h:1", REDIS_SENTINEL_MASTER="m")
    assert "SSL" in redis.connection_pool.connection_class.__name__
