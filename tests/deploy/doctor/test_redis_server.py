"""The checks of Redis, against real servers with each fault. Only versions are judged by a text."""

import pytest

from deploy.doctor.findings import Verdict
from deploy.doctor.redis_server import address_of, judge_memory, judge_server, judge_speed
from deploy.local.stack import free_port
from shared.settings import read_settings
from tests.conftest import StartValkey
from tests.deploy.doctor.conftest import RunCheck

pytestmark = pytest.mark.anyio


async def test_server_with_append_only_file_is_ok(run_check: RunCheck, start_valkey: StartValkey):
    url = start_valkey("--appendonly", "yes").url
    for check in ("redis server", "redis persistence", "redis eviction", "redis clock"):
        result = await run_check(check, REDIS_URL=url)
        assert result.verdict is Verdict.OK, result
        assert not result.advice


@pytest.mark.parametrize(("seconds", "verdict"), [(0.001, Verdict.OK), (0.1, Verdict.WARNING)])
def test_slow_server_is_a_warning(seconds: float, verdict: Verdict):
    finding = judge_speed("there:6379/0", seconds)
    assert (finding.verdict, finding.detail) == (verdict, f"there:6379/0 answers in {seconds * 1000:.1f} ms")


async def test_connection_shows_address_and_duration(run_check: RunCheck, valkey_url: str):
    result = await run_check("redis")
    assert result.detail.startswith(f"{valkey_url.removeprefix('redis://')} answers in ")


async def test_connection_to_no_server_fails(run_check: RunCheck, away_url: str):
    result = await run_check("redis", REDIS_URL=away_url)
    assert result.verdict is Verdict.FAILED
    assert "does not answer" in result.detail
    assert "Compare REDIS_URL" in result.advice


@pytest.mark.parametrize("check", ["redis server", "redis persistence", "redis eviction", "redis clock", "node host"])
async def test_other_checks_without_redis_are_unknown(run_check: RunCheck, away_url: str, check: str):
    result = await run_check(check, REDIS_URL=away_url)
    assert result.verdict is Verdict.UNKNOWN
    assert (result.detail, result.advice) == ("Redis does not answer", "See the check `redis`.")


async def test_connection_without_password_fails(run_check: RunCheck, start_valkey: StartValkey):
    result = await run_check("redis", REDIS_URL=start_valkey("--requirepass", "hush").url)
    assert result.verdict is Verdict.FAILED
    assert "redis://user:password@" in result.advice


def test_address_hides_the_password():
    assert address_of(read_settings({"REDIS_URL": "redis://me:hush@there:6379/2"})) == "there:6379/2"


async def test_server_without_persistence_fails(run_check: RunCheck):
    result = await run_check("redis persistence")
    assert result.verdict is Verdict.FAILED
    assert "a restart loses every record" in result.detail
    assert "--appendonly yes" in result.advice


async def test_server_with_snapshots_only_is_a_warning(run_check: RunCheck, start_valkey: StartValkey):
    result = await run_check("redis persistence", REDIS_URL=start_valkey("--save", "60 1000").url)
    assert result.verdict is Verdict.WARNING
    assert "save 60 1000" in result.detail


async def test_server_that_hides_its_configuration_is_unknown(run_check: RunCheck, start_valkey: StartValkey):
    """Managed servers may refuse CONFIG."""
    result = await run_check("redis persistence", REDIS_URL=start_valkey("--rename-command", "CONFIG", "").url)
    assert result.verdict is Verdict.UNKNOWN
    assert "--appendonly yes" in result.advice


async def test_server_that_evicts_keys_fails(run_check: RunCheck, start_valkey: StartValkey):
    url = start_valkey("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru").url
    result = await run_check("redis eviction", REDIS_URL=url)
    assert result.verdict is Verdict.FAILED
    assert result.detail.startswith("allkeys-lru, ")
    assert "noeviction" in result.advice


async def test_eviction_policy_without_memory_limit_is_a_warning(run_check: RunCheck, start_valkey: StartValkey):
    result = await run_check("redis eviction", REDIS_URL=start_valkey("--maxmemory-policy", "volatile-ttl").url)
    assert result.verdict is Verdict.WARNING


def test_memory_that_is_nearly_used_up_is_a_warning():
    finding = judge_memory({"maxmemory_policy": "noeviction", "maxmemory": 100 * 2**20, "used_memory": 95 * 2**20})
    assert (finding.verdict, finding.detail) == (Verdict.WARNING, "noeviction, 95% of 100 MiB used")


async def test_replica_fails(run_check: RunCheck, start_valkey: StartValkey):
    master = start_valkey()
    url = start_valkey("--replicaof", "127.0.0.1", str(master.port)).url
    result = await run_check("redis server", REDIS_URL=url)
    assert result.verdict is Verdict.FAILED
    assert "refuses writes" in result.detail


async def test_cluster_mode_fails(run_check: RunCheck, start_valkey: StartValkey):
    server = start_valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    result = await run_check("redis server", REDIS_URL=server.url)
    assert result.verdict is Verdict.FAILED
    assert "without cluster mode" in result.advice


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"redis_version": "6.0.16"}, Verdict.FAILED),
        ({"redis_version": "6.2.0"}, Verdict.OK),
        ({"redis_version": "8.2.1-rc1"}, Verdict.OK),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, Verdict.OK),
    ],
)
def test_version_decides_the_verdict(info, verdict):
    assert judge_server(info).verdict is verdict


async def test_sentinel_is_accepted_only_in_its_own_setting(run_check: RunCheck, start_valkey: StartValkey):
    """In REDIS_URL one check fails and the others are unknown. In REDIS_SENTINELS its master is checked."""
    config = f"sentinel monitor deer 127.0.0.1 {start_valkey('--appendonly', 'yes').port} 1\n"
    sentinel = start_valkey("--sentinel", config=config)
    result = await run_check("redis server", REDIS_URL=sentinel.url)
    assert result.verdict is Verdict.FAILED
    assert "REDIS_SENTINELS" in result.advice
    for check in ("redis persistence", "redis eviction", "redis clock"):
        assert (await run_check(check, REDIS_URL=sentinel.url)).verdict is Verdict.UNKNOWN

    settings = {"REDIS_SENTINELS": f"127.0.0.1:{sentinel.port}", "REDIS_SENTINEL_MASTER": "deer"}
    assert (await run_check("redis server", **settings)).verdict is Verdict.OK
    assert (await run_check("redis persistence", **settings)).verdict is Verdict.OK
    result = await run_check("redis", **settings | {"REDIS_SENTINEL_MASTER": "elk"})
    assert result.verdict is Verdict.FAILED
    assert "sentinel masters" in result.advice


async def test_user_without_permission_for_info_is_unknown(run_check: RunCheck, start_valkey: StartValkey):
    server = start_valkey("--user", "poor", "on", ">hush", "~*", "+@all", "-info")
    url = server.url.replace("redis://", "redis://poor:hush@")
    assert "answers in" in (await run_check("redis", REDIS_URL=url)).detail
    result = await run_check("redis eviction", REDIS_URL=url)
    assert result.verdict is Verdict.UNKNOWN
    assert "info" in result.detail
    assert "the user in REDIS_URL" in result.advice
