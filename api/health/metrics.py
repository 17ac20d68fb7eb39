"""`/metrics`: what this process has counted, and what all processes share, read from Redis at each scrape."""

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar import MediaType, Request, Response, get
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.health.stats import QueueStats, read_stats
from api.state.app_state import app_state
from shared import metrics
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.limits import limits

REDIS_SECONDS = 3.0
"""For a Redis that hangs: what this process has counted must not wait till Prometheus gives it up."""


class _Shared(Collector):
    """The gauges of one scrape."""

    def __init__(
        self, settings: Settings, state: QueueStats, workers: int, observed_at: float | None, now: float
    ) -> None:
        self._settings = settings
        self._state = state
        self._workers = workers
        self._observed = (now - observed_at) if observed_at is not None else None

    def collect(self) -> Iterable[Metric]:
        yield self._by_status()
        yield _gauge("deerflow_queue_jobs", "Jobs that are due, those being worked on included.", self._state.waiting)
        yield _gauge("deerflow_queue_delayed_jobs", "Jobs that are put off.", self._state.delayed)
        text = "How long the job that waits longest is due. Growing: add workers, or see why they fail."
        yield _gauge("deerflow_queue_oldest_seconds", text, self._state.oldest)
        text = "Records that no sweep has looked at in time. Not 0: the sweep does not run, or is behind."
        yield _gauge("deerflow_overdue_sandboxes", text, self._state.overdue)
        yield _gauge("deerflow_workers", "Workers that say that they live. 0: nothing is made or ended.", self._workers)
        yield from self._limits()
        if self._observed is not None:
            text = "Since records and cluster last agreed. Over 60: statuses are old; see the workers' log."
            family = GaugeMetricFamily("deerflow_sync_age_seconds", text, labels=["cluster"])
            family.add_metric([self._settings.cluster_name], max(0.0, self._observed))
            yield family

    def _by_status(self) -> Metric:
        family = GaugeMetricFamily("deerflow_sandboxes", "Sandboxes that have a record.", labels=["cluster", "status"])
        for status, count in self._state.by_status.items():
            family.add_metric([self._settings.cluster_name, status], count)
        return family

    def _limits(self) -> Iterable[Metric]:
        text = "How many there may be at once, by setting. Reached: creates are refused with 429."
        maximum = GaugeMetricFamily("deerflow_limit", text, labels=["limit"])
        left = GaugeMetricFamily("deerflow_limit_left", "How many more there may be.", labels=["limit"])
        for limit in limits(self._settings, ""):
            if limit.name in self._state.held:
                maximum.add_metric([limit.name], limit.maximum)
                left.add_metric([limit.name], max(0, limit.maximum - self._state.held[limit.name]))
        yield maximum
        yield left


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False)
async def scrape(request: Request[Any, Any, Any]) -> Response[bytes]:
    """With Redis away, what this process has counted: that it is away is among it."""
    state = app_state(request)
    settings, store = state.settings, state.store
    registry = CollectorRegistry()
    try:
        shared = tuple(limit for limit in limits(settings, "") if limit.name != "MAX_SANDBOXES_PER_USER")
        async with asyncio.timeout(REDIS_SECONDS):
            stats = await read_stats(store.redis, store.now, shared)
            workers, observed_at = len(await state.workers.alive()), await state.sync.synced_at()
        registry.register(_Shared(settings, stats, workers, observed_at, store.now()))
    except StoreUnavailable:
        pass
    except TimeoutError:
        metrics.REDIS_ERRORS.inc()
    return Response(metrics.exposition() + generate_latest(registry), headers={"Content-Type": metrics.CONTENT_TYPE})


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
