"""Redis: whether it answers, is one that we can work with, and keeps what it is given."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, RedisError

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, broken, ok, unknown, warning
from deploy.doctor.speed import fastest
from shared.settings import Settings

SLOW_SECONDS = 0.02
"""A round trip, of which a create takes about ten in a row: beyond this they are what it waits for."""
OLDEST = (6, 2)
"""The first with `ZMSCORE`, by which workers look for those that have died."""
FULL = 0.9
"""Of the memory that it may take: time to give it more."""

APPEND_ONLY = "Start it with `--appendonly yes`; one that runs: `redis-cli config set appendonly yes`."
PING = '`redis-cli -u "$REDIS_URL" ping`'

_WRITES = {"aof_last_write_status": "the append-only file", "rdb_last_bgsave_status": "the snapshot"}

Info = Mapping[str, Any]


async def reachable(patient: Context) -> Finding:
    where = name(patient.settings)
    try:
        seconds = await fastest(patient.redis.ping)
    except AuthenticationError as error:
        return broken(f"{where} refuses us: {error}", "Put user and password into REDIS_URL: redis://user:password@…")
    except (RedisError, OSError) as error:
        return broken(f"{where} does not answer: {error}", _where_it_listens(patient.settings))
    return judge_speed(where, seconds)


def judge_speed(where: str, seconds: float) -> Finding:
    seen = f"{where} answers in {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        return warning(seen, "Run Redis nearer to the API and the workers: each create asks it about ten times.")
    return ok(seen)


def _where_it_listens(settings: Settings) -> str:
    if settings.redis_sentinels:
        return "Compare with `redis-cli -p 26379 sentinel masters` where a Sentinel runs."
    return f"Compare REDIS_URL with where Redis listens. From a container, `localhost` is the container. Try: {PING}"


def name(settings: Settings) -> str:
    """Without user and password."""
    if settings.redis_sentinels:
        return f"{settings.redis_sentinel_master} of {settings.redis_sentinels}"
    parts = urlsplit(settings.redis_url)
    return parts.path if parts.scheme == "unix" else f"{parts.netloc.rpartition('@')[2]}{parts.path}"


async def server(patient: Context) -> Finding:
    return judge_server({**await patient.redis.info("server"), **await patient.redis.info("replication")})


def judge_server(info: Info) -> Finding:
    """By what `INFO` says. Valkey gives the version of Redis that it is compatible with, and its own."""
    product = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    mode, role = info.get("redis_mode") or info.get("server_mode"), info.get("role", "master")  # Redis', or Valkey's
    if mode == "sentinel":
        return broken(f"{product}, a Sentinel", "Name it in REDIS_SENTINELS, and its master in REDIS_SENTINEL_MASTER.")
    if mode == "cluster":
        return broken(
            f"{product} in cluster mode", "Our steps touch keys of several slots: use one without cluster mode."
        )
    if role != "master":
        return broken(
            f"{product}, a replica, which refuses writes", "REDIS_URL must name its master, or use Sentinels."
        )
    version = tuple(int(part) for part in re.findall(r"\d+", str(info["redis_version"]))[:2])
    if version < OLDEST:
        return broken(f"{product} is too old", f"Use Redis {OLDEST[0]}.{OLDEST[1]} or later, or any Valkey.")
    return ok(product)


async def persistence(patient: Context) -> Finding:
    info = await patient.redis.info("persistence")
    if failed := [words for key, words in _WRITES.items() if info.get(key, "ok") != "ok"]:
        return broken(
            f"{' and '.join(failed)} cannot be written", "Look at Redis' log, and at the space on its disk (`df -h`)."
        )
    if info.get("aof_enabled"):
        return ok("an append-only file")
    try:
        snapshots = (await patient.redis.config_get("save"))["save"]
    except RedisError as error:
        return unknown(f"no append-only file; whether there are snapshots it does not say: {error}", APPEND_ONLY)
    if snapshots:
        return warning(
            f"snapshots only (`save {snapshots}`): what came after the last one is lost with it", APPEND_ONLY
        )
    return broken("keeps nothing: when it restarts, every record is gone", APPEND_ONLY)


async def eviction(patient: Context) -> Finding:
    return judge_memory(await patient.redis.info("memory"))


def judge_memory(info: Info) -> Finding:
    """By what `INFO` says, which a provider's may not; `maxmemory` 0 is no limit."""
    if not {"maxmemory_policy", "maxmemory", "used_memory"} <= info.keys():
        return unknown("it does not say", "Its maxmemory-policy must be noeviction.")
    policy, limit, used = info["maxmemory_policy"], int(info["maxmemory"]), int(info["used_memory"])
    share = f"{used / limit:.0%} of {limit / 2**20:.0f} MiB used" if limit else "no limit of memory"
    if policy != "noeviction":
        say = broken if limit else warning
        advice = (
            "`redis-cli config set maxmemory-policy noeviction`: another one drops records or jobs when it is full."
        )
        return say(f"{policy}, {share}", advice)
    if limit and used > FULL * limit:
        return warning(f"{policy}, {share}", "Raise `maxmemory`: when it is full, every create and delete is refused.")
    return ok(f"{policy}, {share}")
