"""Endpoint `/metrics`: metrics of this process, and the state that all processes share, read at each scrape."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from litestar import MediaType, Request, Response, get
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.health.stats import QueueStats, read_stats
from api.state.app_state import AppState, app_state
from shared import metrics
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.limits import Limit, limits


class SharedStateCollector(Collector):
    """The gauges of one scrape. `sync_age` is in seconds; None if the cluster was never synced."""

    def __init__(self, settings: Settings, stats: QueueStats, workers: int, sync_age: float | None) -> None:
        self._settings = settings
        self._stats = stats
        self._workers = workers
        self._sync_age = sync_age

    def collect(self) -> Iterable[Metric]:
        stats = self._stats
        yield self._by_status()
        yield _gauge("deerflow_queue_jobs", "Jobs that are due, including those that workers run.", stats.waiting)
        yield _gauge("deerflow_queue_delayed_jobs", "Jobs that are not due yet.", stats.delayed)
        text = "Age of the oldest due job that no worker runs. If it grows, add workers, or see why jobs fail."
        yield _gauge("deerflow_queue_oldest_seconds", text, stats.oldest_seconds)
        text = "Records that are due for 30 s or more. Above 0, the sweep does not run or does not keep up."
        yield _gauge("deerflow_overdue_sandboxes", text, stats.overdue)
        text = "Workers with a recent heartbeat. At 0, no sandbox is created or deleted."
        yield _gauge("deerflow_workers", text, self._workers)
        yield from self._limits()
        if self._sync_age is not None:
            text = "Seconds since records and cluster last agreed. Above 60, statuses are old; see the workers' log."
            family = GaugeMetricFamily("deerflow_sync_age_seconds", text, labels=["cluster"])
            family.add_metric([self._settings.cluster_name], max(0.0, self._sync_age))
            yield family

    def _by_status(self) -> Metric:
        text = "Sandboxes with a record, by status."
        family = GaugeMetricFamily("deerflow_sandboxes", text, labels=["cluster", "status"])
        for status, count in self._stats.by_status.items():
            family.add_metric([self._settings.cluster_name, status], count)
        return family

    def _limits(self) -> Iterable[Metric]:
        text = "Maximum of each limit, by setting. If a limit is reached, creates are refused with 429."
        maximum = GaugeMetricFamily("deerflow_limit", text, labels=["limit"])
        left = GaugeMetricFamily("deerflow_limit_left", "Room left in each limit, by setting.", labels=["limit"])
        for limit in _shared_limits(self._settings):
            maximum.add_metric([limit.name], limit.maximum)
            left.add_metric([limit.name], max(0, limit.maximum - self._stats.usage[limit.name]))
        yield maximum
        yield left


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False)
async def scrape(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return all metrics. If Redis does not answer, return those of this process, which count that error."""
    registry = CollectorRegistry()
    with suppress(StoreUnavailable):
        registry.register(await _read_shared_state(app_state(request)))
    return Response(metrics.exposition() + generate_latest(registry), headers={"Content-Type": metrics.CONTENT_TYPE})


async def _read_shared_state(state: AppState) -> SharedStateCollector:
    stats = await read_stats(state.store.redis, state.store.now, _shared_limits(state.settings))
    workers, synced_at = len(await state.workers.alive()), await state.sync.synced_at()
    sync_age = None if synced_at is None else state.store.now() - synced_at
    return SharedStateCollector(state.settings, stats, workers, sync_age)


def _shared_limits(settings: Settings) -> tuple[Limit, ...]:
    """Return the limits that all sandboxes share. A limit of each user would need a series for each user."""
    return tuple(limit for limit in limits(settings, "") if limit.name != "MAX_SANDBOXES_PER_USER")


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
