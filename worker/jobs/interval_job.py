"""Scheduled jobs with a free interval. arq's own schedules are calendar times: "at second 0, 10 and 20"."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from arq import cron
from arq.cron import CronJob
from arq.typing import WorkerCoroutine

_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(kw_only=True)
class IntervalJob(CronJob):
    """Runs at each multiple of `interval_seconds` since the epoch. All workers mean the same times.

    arq makes the time a part of the job's id, so the workers together enqueue one job a time.
    """

    interval_seconds: float

    def calculate_next(self, prev_run: datetime) -> None:
        """Set the next time. Times that are past, for example while Redis was down, are skipped."""
        latest = max(prev_run, datetime.now(tz=prev_run.tzinfo))
        interval = timedelta(seconds=self.interval_seconds)
        next_run = _EPOCH + ((latest - _EPOCH) // interval + 1) * interval
        self.next_run = next_run.astimezone(prev_run.tzinfo)


def every(
    interval_seconds: float, coroutine: Callable[[dict[Any, Any]], Coroutine[Any, Any, None]], timeout_seconds: float
) -> IntervalJob:
    """Return a scheduled job that runs `coroutine`, in one of the workers, every `interval_seconds`."""
    job = cron(cast(WorkerCoroutine, coroutine), timeout=timeout_seconds)
    return IntervalJob(**vars(job), interval_seconds=interval_seconds)
