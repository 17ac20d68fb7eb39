"""One worker at a time looks at the cluster, for all: it lists, then watches, and records what has changed.

Everything is written under the lease (`Lease.guard`), so that a leader which was frozen and has been replaced writes
nothing. Whatever goes wrong ends in a new list, which compares both truths: nothing depends on having seen each event.
"""

import asyncio

import structlog
from redis.asyncio import Redis

from shared import metrics
from shared.errors import PreconditionFailed, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from worker.kubernetes import retry
from worker.kubernetes.client import KubernetesClient
from worker.leader.lease import Lease, LeaseLost
from worker.reflectors.events import EventReflector
from worker.reflectors.pods import Ours, PodReflector
from worker.reflectors.services import ServiceReflector

log = structlog.get_logger()


def lease_name(cluster: str) -> str:
    return f"leader:{cluster}"


class Leader:
    def __init__(
        self, store: Store, sync: ClusterSync, redis: Redis, cluster: KubernetesClient, settings: Settings
    ) -> None:
        self._store = store
        self._sync = sync
        self._redis = redis
        self._cluster = cluster
        self._settings = settings

    async def run(self) -> None:
        """Until cancelled: wait for the lease, lead, and wait again when it is lost or Redis is away."""
        cluster = self._settings.cluster_name
        while True:
            lease = Lease(self._redis, lease_name(cluster))
            await lease.acquire()
            log.info("observing", cluster=cluster)
            try:
                with metrics.LEASE.track_inprogress():
                    await self._run_term(lease)
            finally:
                await lease.release()

    async def _run_term(self, lease: Lease) -> None:
        """Ends when this worker may no longer observe, or cannot write what it sees."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.renew_forever())
                for following in self._followings(lease.precondition):
                    group.create_task(following.run())
        except* (LeaseLost, PreconditionFailed) as lost:
            log.warning("observing ended: another worker does it", cause=str(lost.exceptions[0]))
        except* StoreUnavailable as away:
            log.warning("observing ended: redis is away", cause=str(away.exceptions[0]))
            await asyncio.sleep(retry.backoff_seconds(1))

    def _followings(self, precondition: Precondition) -> tuple[PodReflector, ServiceReflector, EventReflector]:
        own = (self._store, self._cluster, self._settings, precondition)
        ours: Ours = {}
        return PodReflector(self._sync, ours, *own), ServiceReflector(*own), EventReflector(ours, *own)
