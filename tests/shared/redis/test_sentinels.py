"""Failover of the master that Sentinels watch, with real servers: new masters, passwords and TLS."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest
from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.exceptions import RedisError

from deploy.local.stack import free_port
from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, RETRY_FOREVER, connect, subscribe
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import StartValkey, Valkey, created, program_of_redis
from tests.support.certificates import Authority
from tests.support.eventually import eventually, within

pytestmark = pytest.mark.anyio

FAILOVER_SECONDS = 15.0
"""Promised limit from the death of a master until its clients work with the new one."""
AUTH = ("--requirepass", "word", "--masterauth", "word")


class Group(NamedTuple):
    """A master and a replica with a password, and a Sentinel with another one."""

    master: Valkey
    replica: Valkey
    sentinel: Valkey

    def open(self, retry: Retry = FAIL_FAST, **environment: str) -> ArqRedis:
        settings = {
            "REDIS_URL": "redis://:word@unused/0",
            "REDIS_SENTINELS": f"127.0.0.1:{self.sentinel.port}",
            "REDIS_SENTINEL_MASTER": "deer",
            "REDIS_SENTINEL_PASSWORD": "secret",
        }
        return connect(read_settings(settings | environment), retry)


def config_of(port: int) -> str:
    """Return the configuration of a Sentinel that replaces a master that is dead for a second."""
    return (
        "requirepass secret\nuser observer on >hidden allcommands allchannels\n"
        f"sentinel monitor deer 127.0.0.1 {port} 1\nsentinel auth-pass deer word\n"
        "sentinel down-after-milliseconds deer 1000\nsentinel failover-timeout deer 3000\n"
    )


@pytest.fixture
def group(start_server: StartValkey) -> Group:
    master = start_server(*AUTH, "--repl-diskless-sync-delay", "0")
    replica = start_server(*AUTH, "--replicaof", "127.0.0.1", str(master.port))
    return Group(master, replica, start_server("--sentinel", config=config_of(master.port)))


@pytest.mark.parametrize("retry", [FAIL_FAST, RETRY_FOREVER], ids=["fail fast", "retry forever"])
async def test_clients_after_the_death_of_a_master_find_the_new_one(group: Group, retry: Retry):
    """A retry that knows only the address of the dead master would try that address without end."""
    async with group.open(retry) as redis:
        await redis.set("key", "value")
        await until_known(group)
        group.master.stop()
        died_at = time.monotonic()

        async def answers() -> bool:
            try:
                return bool(await within(redis.get("key"), FAILOVER_SECONDS) == b"value")
            except (RedisError, OSError):
                return False

        await eventually(answers, "the new master answers", interval=0.1)
        assert time.monotonic() - died_at < FAILOVER_SECONDS
        assert (await redis.config_get("port"))["port"] == str(group.replica.port)
        assert await within(anext(subscribe(redis, "channel"))) is None


async def until_known(group: Group) -> None:
    """Wait until the replica has all writes, and the Sentinel knows the replica."""
    async with group.open() as redis, connect_to_sentinel(group) as sentinel:

        async def is_known() -> bool:
            (master,) = (await sentinel.sentinel_masters()).values()
            return bool(master["num-slaves"] == 1 and await redis.execute_command("WAIT", 1, 100) == 1)

        await eventually(is_known, "the Sentinel knows the replica")


def connect_to_sentinel(group: Group) -> ArqRedis:
    return connect(read_settings({"REDIS_URL": f"redis://:secret@127.0.0.1:{group.sentinel.port}/0"}), FAIL_FAST)


async def test_sentinel_rejects_a_wrong_password(group: Group):
    async with group.open(REDIS_SENTINEL_PASSWORD="mistaken") as redis:
        with pytest.raises(StoreUnavailable) as refusal:
            await Store(redis).get("abc")
    assert "mistaken" not in refusal.value.detail


async def test_sentinel_accepts_a_user_of_its_own(group: Group):
    async with group.open(REDIS_SENTINEL_USERNAME="observer", REDIS_SENTINEL_PASSWORD="hidden") as redis:
        assert await Store(redis).get("abc") is None


async def test_call_gets_past_sentinels_that_are_away(group: Group):
    """A Sentinel whose host is gone refuses nothing: its packets are lost. `192.0.2.0/24` has no hosts."""
    sentinels = f"192.0.2.251:1,192.0.2.252:1,127.0.0.1:{group.sentinel.port}"
    async with group.open(REDIS_SENTINELS=sentinels) as redis:
        assert await Store(redis).get("abc") is None


async def test_rediss_url_means_tls_to_master_and_sentinels(start_valkey: StartValkey, tmp_path: Path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("redis", "subjectAltName=IP:127.0.0.1")
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.certificate)
    tls = (*map(str, files), "--tls-auth-clients", "no", "--tls-replication", "yes")
    master_port, sentinel_port, program = free_port(), free_port(), program_of_redis()
    start_valkey(*AUTH, *tls, "--tls-port", str(master_port), program=program)
    config = config_of(master_port)
    start_valkey("--sentinel", *tls, "--tls-port", str(sentinel_port), config=config, program=program)
    settings = {
        "REDIS_URL": f"rediss://:word@unused/0?ssl_ca_certs={authority.certificate}",
        "REDIS_SENTINELS": f"127.0.0.1:{sentinel_port}",
        "REDIS_SENTINEL_MASTER": "deer",
        "REDIS_SENTINEL_PASSWORD": "secret",
    }
    async with connect(read_settings(settings), FAIL_FAST) as redis:
        store = Store(redis)
        result = await store.create_or_update("abc", created("abc", store.now()))
        assert result.written
