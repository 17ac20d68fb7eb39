"""What is wrong with a Redis is found on real ones that have it; versions, which cannot be had, by what they say."""

import pytest

from deploy.doctor.findings import Verdict
from deploy.doctor.redis_server import judge_memory, judge_server, judge_speed, name
from deploy.local.stack import free_port
from shared.settings import read_settings
from tests.conftest import StartValkey
from tests.deploy.doctor.conftest import Look

pytestmark = pytest.mark.anyio


async def test_all_is_well(look: Look, start_valkey: StartValkey):
    url = start_valkey("--appendonly", "yes").url
    for check in ("redis server", "redis persistence", "redis eviction", "redis clock"):
        found = await look(check, REDIS_URL=url)
        assert found.verdict is Verdict.OK, found
        assert not found.advice


@pytest.mark.parametrize(("seconds", "verdict"), [(0.001, Verdict.OK), (0.1, Verdict.WARNING)])
def test_how_fast_it_answers(seconds: float, verdict: Verdict):
    found = judge_speed("there:6379/0", seconds)
    assert (found.verdict, found.seen) == (verdict, f"there:6379/0 answers in {seconds * 1000:.1f} ms")


async def test_where_it_is_and_how_fast(look: Look, valkey_url: str):
    found = await look("redis")
    assert found.seen.startswith(f"{valkey_url.removeprefix('redis://')} answers in ")


async def test_nobody_answers(look: Look, away_url: str):
    found = await look("redis", REDIS_URL=away_url)
    assert found.verdict is Verdict.BROKEN
    assert "does not answer" in found.seen
    assert "Compare REDIS_URL" in found.advice


@pytest.mark.parametrize("check", ["redis server", "redis persistence", "redis eviction", "redis clock", "node host"])
async def test_nobody_answers_is_said_once(look: Look, away_url: str, check: str):
    """The other checks say that they do not know."""
    found = await look(check, REDIS_URL=away_url)
    assert found.verdict is Verdict.UNKNOWN
    assert (found.seen, found.advice) == ("Redis does not answer us", "See `redis`.")


async def test_a_password_is_missing(look: Look, start_valkey: StartValkey):
    found = await look("redis", REDIS_URL=start_valkey("--requirepass", "hush").url)
    assert found.verdict is Verdict.BROKEN
    assert "redis://user:password@" in found.advice


def test_a_password_is_not_shown():
    assert name(read_settings({"REDIS_URL": "redis://me:hush@there:6379/2"})) == "there:6379/2"


async def test_it_keeps_nothing(look: Look):
    found = await look("redis persistence")
    assert found.verdict is Verdict.BROKEN
    assert "every record is gone" in found.seen
    assert "--appendonly yes" in found.advice


async def test_it_keeps_snapshots_only(look: Look, start_valkey: StartValkey):
    found = await look("redis persistence", REDIS_URL=start_valkey("--save", "60 1000").url)
    assert found.verdict is Verdict.WARNING
    assert "save 60 1000" in found.seen


async def test_it_does_not_tell_of_snapshots(look: Look, start_valkey: StartValkey):
    """As a provider's may not."""
    found = await look("redis persistence", REDIS_URL=start_valkey("--rename-command", "CONFIG", "").url)
    assert found.verdict is Verdict.UNKNOWN
    assert "--appendonly yes" in found.advice


async def test_it_evicts(look: Look, start_valkey: StartValkey):
    url = start_valkey("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru").url
    found = await look("redis eviction", REDIS_URL=url)
    assert found.verdict is Verdict.BROKEN
    assert found.seen.startswith("allkeys-lru, ")
    assert "noeviction" in found.advice


async def test_it_would_evict_if_it_had_a_limit(look: Look, start_valkey: StartValkey):
    found = await look("redis eviction", REDIS_URL=start_valkey("--maxmemory-policy", "volatile-ttl").url)
    assert found.verdict is Verdict.WARNING


def test_it_is_nearly_full():
    found = judge_memory({"maxmemory_policy": "noeviction", "maxmemory": 100 * 2**20, "used_memory": 95 * 2**20})
    assert (found.verdict, found.seen) == (Verdict.WARNING, "noeviction, 95% of 100 MiB used")


async def test_a_replica(look: Look, start_valkey: StartValkey):
    master = start_valkey()
    found = await look("redis server", REDIS_URL=start_valkey("--replicaof", "127.0.0.1", str(master.port)).url)
    assert found.verdict is Verdict.BROKEN
    assert "refuses writes" in found.seen


async def test_cluster_mode(look: Look, start_valkey: StartValkey):
    started = start_valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    found = await look("redis server", REDIS_URL=started.url)
    assert found.verdict is Verdict.BROKEN
    assert "without cluster mode" in found.advice


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"redis_version": "6.0.16"}, Verdict.BROKEN),
        ({"redis_version": "6.2.0"}, Verdict.OK),
        ({"redis_version": "8.2.1-rc1"}, Verdict.OK),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, Verdict.OK),
    ],
)
def test_versions(info, verdict):
    assert judge_server(info).verdict is verdict


async def test_a_sentinel(look: Look, start_valkey: StartValkey):
    """Named as if it were a Redis: said once. Named as what it is: its master is looked at."""
    watch = f"sentinel monitor deer 127.0.0.1 {start_valkey('--appendonly', 'yes').port} 1\n"
    sentinel = start_valkey("--sentinel", config=watch)
    found = await look("redis server", REDIS_URL=sentinel.url)
    assert found.verdict is Verdict.BROKEN
    assert "REDIS_SENTINELS" in found.advice
    for check in ("redis persistence", "redis eviction", "redis clock"):
        assert (await look(check, REDIS_URL=sentinel.url)).verdict is Verdict.UNKNOWN

    named = {"REDIS_SENTINELS": f"127.0.0.1:{sentinel.port}", "REDIS_SENTINEL_MASTER": "deer"}
    assert (await look("redis server", **named)).verdict is Verdict.OK
    assert (await look("redis persistence", **named)).verdict is Verdict.OK
    found = await look("redis", **named | {"REDIS_SENTINEL_MASTER": "elk"})
    assert found.verdict is Verdict.BROKEN
    assert "sentinel masters" in found.advice


async def test_a_user_that_may_not_ask(look: Look, start_valkey: StartValkey):
    started = start_valkey("--user", "poor", "on", ">hush", "~*", "+@all", "-info")
    url = started.url.replace("redis://", "redis://poor:hush@")
    assert "answers in" in (await look("redis", REDIS_URL=url)).seen
    found = await look("redis eviction", REDIS_URL=url)
    assert found.verdict is Verdict.UNKNOWN
    assert "info" in found.seen
    assert "the user in REDIS_URL" in found.advice
