"""The synced mark of a cluster: when its records last agreed with the cluster, and which data set Redis holds.

A leader writes the mark after it has compared all records with the cluster. A missing mark means that Redis is new or
was emptied. A mark of another server came with a restored or replicated data set, which may lack the last writes.
In both cases a missing record proves nothing, until a leader has compared records and cluster again.
"""

import secrets

import msgspec
from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.store import keys
from shared.store.lua import SERVER_ID, load_script
from shared.store.update import SYNCED, Precondition

FRESH_SECONDS = 60.0
"""Age at which a sync counts as old in readiness: statuses may be out of date by then."""


class SyncedMark(msgspec.Struct, frozen=True):
    """The mark in Redis. `synced_at` in seconds since the epoch, as text; `run_id` is the server's that wrote it."""

    synced_at: str
    dataset_id: str
    run_id: str = ""


_decode = msgspec.json.Decoder(SyncedMark).decode


class ClusterSync:
    """The synced mark of one cluster. Every method raises StoreUnavailable if Redis does not answer."""

    def __init__(self, redis: Redis, now: Clock, cluster: str) -> None:
        self._mark_synced = load_script(redis, __file__, "mark_synced.lua", prelude=SERVER_ID)
        self._read_synced = load_script(redis, __file__, "read_synced.lua", prelude=SERVER_ID)
        self._now = now
        self._key = keys.synced(cluster)
        self.cluster = cluster

    @property
    def precondition(self) -> Precondition:
        """A precondition that holds while the cluster is synced."""
        return Precondition(self._key, SYNCED)

    async def mark_synced(self, lease: Precondition) -> None:
        """Write that all records agree with the cluster now.

        Raises:
            PreconditionFailed: the lease is lost; this worker is not the leader any more.
        """
        request = {"precondition": lease.value, "now": f"{self._now():.3f}", "dataset_id": secrets.token_hex(4)}
        async with redis_call():
            verdict = await self._mark_synced([self._key, lease.key], request)
        if verdict == b"fenced":
            raise PreconditionFailed(self.cluster)

    async def synced_at(self) -> float | None:
        """Return the time of the last sync, seconds since the epoch; None if this Redis server knows of none."""
        mark = await self._mark()
        return float(mark.synced_at) if mark else None

    async def dataset_id(self) -> str | None:
        """Return the id of the data set in Redis; None until the first sync on this server.

        The id changes when Redis is emptied, restarted, restored or replaced by a replica.
        """
        mark = await self._mark()
        return mark.dataset_id if mark else None

    async def has_synced(self) -> bool:
        """Return True if every sandbox in the cluster has a record, as far as Redis knows."""
        return await self._mark() is not None

    async def _mark(self) -> SyncedMark | None:
        async with redis_call():
            raw = await self._read_synced([self._key], {})
        return _decode(raw) if raw else None
