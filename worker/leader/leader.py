"""The leader: one worker of each cluster reflects the cluster into the records.

Every write has the lease as its precondition. So a leader that was frozen, and has been replaced meanwhile, writes
nothing. Each term begins with a list that compares records and cluster: nothing depends on having seen every event.
"""

import asyncio

import structlog
from redis.asyncio import Redis

from shared import metrics
from shared.errors import PreconditionFailed, StoreUnavailable
from worker.kubernetes import retry
from worker.leader.lease import DatasetChanged, Lease, LeaseLost
from worker.leader.task import LeaderTasks

log = structlog.get_logger()


class Leader:
    """Campaigns for the lease of one cluster, and runs `tasks` while it holds the lease."""

    def __init__(self, redis: Redis, cluster: str, tasks: LeaderTasks) -> None:
        self._redis = redis
        self._cluster = cluster
        self._tasks = tasks

    async def run(self) -> None:
        """Lead whenever the lease is free, until cancelled."""
        while True:
            lease = Lease(self._redis, self._cluster)
            await lease.acquire()
            log.info("leading", cluster=self._cluster)
            try:
                with metrics.LEASE.track_inprogress():
                    await self._run_term(lease)
            finally:
                await lease.release()

    async def _run_term(self, lease: Lease) -> None:
        """Run the tasks until the lease is lost, or Redis does not answer."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.renew_forever())
                for task in self._tasks(lease.precondition):
                    group.create_task(task.run())
        except* DatasetChanged as errors:
            log.warning("term ended: Redis may have lost its last writes", cause=_first(errors))
        except* (LeaseLost, PreconditionFailed) as errors:
            log.warning("term ended: another worker leads", cause=_first(errors))
        except* StoreUnavailable as errors:
            log.warning("term ended: Redis does not answer", cause=_first(errors))
            await asyncio.sleep(retry.backoff_seconds(1))


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
