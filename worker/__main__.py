"""`python -m worker`: one worker; start as many as the load needs."""

import argparse
import asyncio
import sys
import time

import structlog
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import cli, logs, metrics
from shared.errors import InvalidRequest, InvalidSettings, StoreUnavailable
from shared.liveness.readiness import missing as missing_parts
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import Settings
from shared.store.store import Store
from worker.health import heartbeat
from worker.health.probes import serving
from worker.jobs.queue_worker import QueueWorker
from worker.main import FAILED, arq_settings
from worker.manifests.preview import preview

log = structlog.get_logger()

CLOSE_SECONDS = 5
"""For giving back the lease and closing connections; a Redis that is away must not keep a worker from stopping."""


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT: then no new jobs, those under way are finished, and everything is closed."""
    async with (
        connect(settings, FAIL_FAST) as redis,
        serving(WorkerRegistry(redis, time.time), ClusterSync(redis, time.time, settings.cluster_name), settings),
    ):
        await _say_if_redis_is_away(redis)
        worker = QueueWorker(**arq_settings(settings))
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            log.info("stopping")
        finally:
            await close(worker)
    if worker.ctx.get(FAILED):
        sys.exit("The observer failed: see the log.")


def print_manifest(settings: Settings) -> str | None:
    try:
        sys.stdout.write(preview(sys.stdin.buffer.read(), settings))
    except InvalidRequest as error:
        return f"The request would be refused: {error.detail}"
    return None


async def check(settings: Settings, *, ready: bool) -> str | None:
    """What is wrong, for the exit of a health check; None: a worker of this host, or container, lives.

    `ready`: and all that it needs to make and see sandboxes is there.
    """
    async with connect(settings, FAIL_FAST) as redis:
        store = Store(redis)
        workers, sync = WorkerRegistry(redis, store.now), ClusterSync(redis, store.now, settings.cluster_name)
        try:
            here = [name for name in await workers.alive() if name.startswith(f"{heartbeat.host_name()}:")]
            missing = [] if here else ["No worker on this host has said that it lives."]
            return " ".join([*missing, *(await missing_parts(workers, sync, time.time()) if ready else [])]) or None
        except StoreUnavailable as error:
            return error.detail


async def _say_if_redis_is_away(redis: Redis) -> None:
    """arq waits for it without a word."""
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        log.warning("redis does not answer; waiting for it", error=str(error))


async def close(worker: QueueWorker) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await worker.close()
    except TimeoutError:
        log.warning("not closed in time; the lease ends by itself", seconds=CLOSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run one worker of the sandbox provisioner.")
    cli.add_print_settings(parser)
    parser.add_argument("--ready", action="store_true", help="as --check, and the cluster was observed lately")
    parser.add_argument("--check", action="store_true", help="exit 0 if a worker on this host is alive, or else 1")
    text = "print the Pod and Service of the create request on standard input, and exit"
    parser.add_argument("--print-manifest", action="store_true", help=text)
    arguments = parser.parse_args()
    settings = cli.settings_or_exit(show=arguments.print_settings)
    logs.configure(settings, "worker")
    metrics.prepare("worker")
    if arguments.print_manifest:
        sys.exit(print_manifest(settings))
    if arguments.check or arguments.ready:
        sys.exit(asyncio.run(check(settings, ready=arguments.ready)))
    cli.freeze()
    try:
        uvloop.run(run(settings))
    except InvalidSettings as error:
        cli.refuse(error)


if __name__ == "__main__":
    main()
