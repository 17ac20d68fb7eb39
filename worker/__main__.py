"""`python -m worker` runs one worker. Start as many workers as the load needs."""

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
from worker.health.heartbeat import is_on_this_host
from worker.health.probes import Health, serving
from worker.jobs.queue_worker import QueueWorker
from worker.main import LEADER_FAILED, make_worker
from worker.manifests.preview import preview

log = structlog.get_logger()

CLOSE_SECONDS = 5
"""Time to release the lease and to close connections. Without Redis the worker must stop all the same."""


async def run(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT. It then fetches no more jobs, finishes the running ones, and closes."""
    worker = make_worker(settings)
    async with connect(settings, FAIL_FAST) as redis:
        workers = WorkerRegistry(redis, time.time)
        sync = ClusterSync(redis, time.time, settings.cluster_name)
        async with serving(Health(worker.seconds_since_fetch, workers, sync), settings):
            await _warn_without_redis(redis)
            await _work(worker)
    if worker.ctx.get(LEADER_FAILED):
        sys.exit("The leader failed. See the log.")


async def _work(worker: QueueWorker) -> None:
    try:
        await worker.async_run()
    except asyncio.CancelledError:
        log.info("worker stopping")
    finally:
        await close(worker)


def print_manifest(settings: Settings) -> str | None:
    """Print the preview of a create request. Return what is wrong with the request, or None."""
    try:
        sys.stdout.write(preview(sys.stdin.buffer.read(), settings))
    except InvalidRequest as error:
        return f"The request would be refused: {error.detail}"
    return None


async def check(settings: Settings, *, ready: bool) -> str | None:
    """Return what is wrong, or None if a worker of this host is alive.

    With `ready`, the whole system must be ready too.
    """
    async with connect(settings, FAIL_FAST) as redis:
        store = Store(redis)
        workers, sync = WorkerRegistry(redis, store.now), ClusterSync(redis, store.now, settings.cluster_name)
        try:
            is_alive = any(is_on_this_host(worker) for worker in await workers.alive())
            sentences = [] if is_alive else ["No worker on this host sends heartbeats."]
            if ready:
                sentences += await missing_parts(workers, sync, time.time())
        except StoreUnavailable as error:
            return error.detail
    return " ".join(sentences) or None


async def _warn_without_redis(redis: Redis) -> None:
    """Log if Redis does not answer. arq waits for Redis silently."""
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        log.warning("waiting for Redis", error=str(error))


async def close(worker: QueueWorker) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await worker.close()
    except TimeoutError:
        log.warning("worker not closed in time; its lease expires", seconds=CLOSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run one worker of the sandbox provisioner.")
    cli.add_version(parser)
    cli.add_print_settings(parser)
    parser.add_argument("--check", action="store_true", help="exit 0 if a worker on this host is alive, else 1")
    parser.add_argument("--ready", action="store_true", help="as --check, and the whole system must be ready")
    text = "print the Pod and the Service of the create request on standard input, and exit"
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
