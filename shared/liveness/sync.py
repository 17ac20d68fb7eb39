"""The synced mark of a cluster: when its records last agreed with the cluster, and which data set Redis holds.

The mark has no expiry. So a missing mark means that Redis is new or was emptied. Then a missing record proves nothing,
until a leader has rebuilt the records from the cluster and has written the mark again.
"""

import secrets

from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.redis.clock import Clock
from shared.redis.connection import translate_redis_errors
from shared.store import keys
from shared.store.lua import load_script
from shared.store.update import ANY_VALUE, Precondition

FRESH_SECONDS = 60.0
"""A cluster whose last sync is older counts as not synced in readiness: statuses may be old."""


class ClusterSync:
    """Lives as long as the `redis` it is given. Every method raises StoreUnavailable if Redis does not answer."""

    def __init__(self, redis: Redis, now: Clock, cluster: str) -> None:
        self._redis = redis
        self._mark_synced = load_script(redis, __file__, "mark_synced.lua")
        self._now = now
        self._key = keys.synced(cluster)
        self.cluster = cluster

    @property
    def precondition(self) -> Precondition:
        """A precondition that holds while the cluster is synced."""
        return Precondition(self._key, ANY_VALUE)

    async def mark_synced(self, lease: Precondition) -> None:
        """Write that all records agree with the cluster now.

        Raises:
            PreconditionFailed: the lease is lost; this worker is not the leader any more.
        """
        request = {"precondition": lease.value, "now": f"{self._now():.3f}", "dataset_id": secrets.token_hex(4)}
        with translate_redis_errors():
            verdict = await self._mark_synced([self._key, lease.key], request)
        if verdict == b"fenced":
            raise PreconditionFailed(self.cluster)

    async def synced_at(self) -> float | None:
        """Return the time of the last sync, seconds since the epoch; None if Redis holds no mark."""
        synced_at, _ = await self._mark()
        return synced_at

    async def dataset_id(self) -> str | None:
        """Return the id of the data set in Redis. It changes when Redis is emptied; None until the next sync."""
        _, dataset_id = await self._mark()
        return dataset_id

    async def has_synced(self) -> bool:
        """Return True if a leader has given every sandbox in the cluster a record."""
        return await self.synced_at() is not None

    async def _mark(self) -> tuple[float | None, str | None]:
        with translate_redis_errors():
            raw = await self._redis.get(self._key)
        if not raw:
            return None, None
        synced_at, _, dataset_id = raw.decode().partition(" ")
        return float(synced_at), dataset_id
