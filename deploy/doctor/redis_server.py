"""Checks of Redis: the connection, the version and mode, persistence and memory."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, RedisError

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, failed, ok, unknown, warning
from deploy.doctor.speed import fastest
from shared.settings import Settings

SLOW_SECONDS = 0.02
"""Time of a round trip. A create makes about ten in a row, so slower ones dominate its duration."""
OLDEST = (6, 2)
"""Minimum version of Redis: the first with `ZMSCORE`, which workers use to find dead workers."""
FULL = 0.9
"""Share of `maxmemory` above which the check warns, while there is time to raise it."""

APPEND_ONLY = "Start Redis with `--appendonly yes`. On a running one: `redis-cli config set appendonly yes`."
PING = '`redis-cli -u "$REDIS_URL" ping`'

_WRITES = {"aof_last_write_status": "the append-only file", "rdb_last_bgsave_status": "the snapshot"}

Info = Mapping[str, Any]
"""Fields of an answer to `INFO`."""


async def check_connection(context: Context) -> Finding:
    address = address_of(context.settings)
    try:
        seconds = await fastest(context.redis.ping)
    except AuthenticationError as error:
        return failed(
            f"{address} rejects the credentials: {error}",
            "Put user and password into REDIS_URL: redis://user:password@…",
        )
    except (RedisError, OSError) as error:
        return failed(f"{address} does not answer: {error}", _address_advice(context.settings))
    return judge_speed(address, seconds)


def judge_speed(address: str, seconds: float) -> Finding:
    detail = f"{address} answers in {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        return warning(detail, "Run Redis closer to the API and the workers: a create makes about ten round trips.")
    return ok(detail)


def _address_advice(settings: Settings) -> str:
    if settings.redis_sentinels:
        return "Compare with `redis-cli -p 26379 sentinel masters` on the host of a Sentinel."
    return f"Compare REDIS_URL with Redis' address. In a container, `localhost` is the container. Try: {PING}"


def address_of(settings: Settings) -> str:
    """Return the address without user and password."""
    if settings.redis_sentinels:
        return f"{settings.redis_sentinel_master} of {settings.redis_sentinels}"
    parts = urlsplit(settings.redis_url)
    return parts.path if parts.scheme == "unix" else f"{parts.netloc.rpartition('@')[2]}{parts.path}"


async def check_server(context: Context) -> Finding:
    return judge_server({**await context.redis.info("server"), **await context.redis.info("replication")})


def judge_server(info: Info) -> Finding:
    """Judge product, mode and version. Valkey reports its own version, and the compatible version of Redis."""
    product = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    mode, role = info.get("redis_mode") or info.get("server_mode"), info.get("role", "master")  # Redis', or Valkey's
    if mode == "sentinel":
        return failed(
            f"{product} is a Sentinel", "Name it in REDIS_SENTINELS, and its master in REDIS_SENTINEL_MASTER."
        )
    if mode == "cluster":
        return failed(
            f"{product} runs in cluster mode",
            "Use a Redis without cluster mode: one update writes keys of several slots.",
        )
    if role != "master":
        return failed(
            f"{product} is a replica, which refuses writes", "Name its master in REDIS_URL, or use Sentinels."
        )
    version = tuple(int(part) for part in re.findall(r"\d+", str(info["redis_version"]))[:2])
    if version < OLDEST:
        return failed(f"{product} is too old", f"Use Redis {OLDEST[0]}.{OLDEST[1]} or later, or any Valkey.")
    return ok(product)


async def check_persistence(context: Context) -> Finding:
    info = await context.redis.info("persistence")
    if failures := [name for key, name in _WRITES.items() if info.get(key, "ok") != "ok"]:
        return failed(
            f"Redis cannot write {' and '.join(failures)}",
            "Check Redis' log, and the free space on its disk (`df -h`).",
        )
    if info.get("aof_enabled"):
        return ok("an append-only file")
    try:
        snapshots = (await context.redis.config_get("save"))["save"]
    except RedisError as error:
        return unknown(f"no append-only file; Redis does not show whether it saves snapshots: {error}", APPEND_ONLY)
    if snapshots:
        return warning(f"snapshots only (`save {snapshots}`): a crash loses all writes since the last one", APPEND_ONLY)
    return failed("Redis saves nothing to disk: a restart loses every record", APPEND_ONLY)


async def check_eviction(context: Context) -> Finding:
    return judge_memory(await context.redis.info("memory"))


def judge_memory(info: Info) -> Finding:
    """Judge policy and use of memory. Managed Redis servers may hide these fields; `maxmemory` 0 means no limit."""
    if not {"maxmemory_policy", "maxmemory", "used_memory"} <= info.keys():
        return unknown("Redis does not show its memory policy", "Its maxmemory-policy must be noeviction.")
    policy, limit, used = info["maxmemory_policy"], int(info["maxmemory"]), int(info["used_memory"])
    share = f"{used / limit:.0%} of {limit / 2**20:.0f} MiB used" if limit else "no memory limit"
    if policy != "noeviction":
        verdict = failed if limit else warning
        advice = "`redis-cli config set maxmemory-policy noeviction`: a full Redis drops records or jobs otherwise."
        return verdict(f"{policy}, {share}", advice)
    if limit and used > FULL * limit:
        return warning(f"{policy}, {share}", "Raise `maxmemory`: a full Redis refuses every create and delete.")
    return ok(f"{policy}, {share}")
