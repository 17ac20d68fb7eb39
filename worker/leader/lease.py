"""Leadership as a lease in Redis: one holder at a time, which renews it. If the holder dies, the lease expires.

Each renewal also watches Redis itself. Another server, or a count of renewals that went back, means that Redis may have
lost the last writes. Then the term ends, and the next one compares all records with the cluster.
"""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from shared.redis.calls import redis_call
from shared.store import keys
from shared.store.lua import SERVER_ID, load_script
from shared.store.update import Precondition

LEASE_SECONDS = 8.0
"""Expiry of a lease that is not renewed. With RETRY_SECONDS it keeps the promise of 10 s (docs/architecture.md)."""
RENEW_SECONDS = 2.0
RETRY_SECONDS = 1.0


class LeaseLost(Exception):
    """Another worker holds the lease by now, or Redis lost it. The former holder must stop."""


class DatasetChanged(LeaseLost):
    """Redis was restarted, restored or replaced since this term began. Its records may lack the last writes."""


class Lease:
    """The lease of a single term. Each term of a leader needs a new object."""

    def __init__(self, redis: Redis, cluster: str) -> None:
        self._name = keys.leader(cluster)
        self._lock: Lock = redis.lock(self._name, timeout=LEASE_SECONDS, blocking=False, thread_local=False)
        self._renew = load_script(redis, __file__, "renew.lua", prelude=SERVER_ID)
        self._keys = [self._name, keys.renewals(cluster), keys.synced(cluster)]
        self._renewals = -1
        self._renewed_at = 0.0
        self._run_id: bytes | None = None

    @property
    def precondition(self) -> Precondition:
        """A precondition that holds while this object holds the lease. The store checks it in the step that writes."""
        return Precondition(self._name, self._lock.local.token.decode())

    async def acquire(self) -> None:
        """Wait until the lease is held. Goes on waiting if Redis does not answer."""
        while not await self._try_acquire():
            await asyncio.sleep(RETRY_SECONDS)

    async def renew_forever(self) -> None:
        """Renew the lease until cancelled.

        Raises:
            LeaseLost: another worker holds it, or Redis lost it.
            DatasetChanged: Redis is another server by now, or went back in time.
            StoreUnavailable: Redis does not answer.
        """
        while True:
            await self.renew()
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Renew the lease once. Raises as `renew_forever` does."""
        request = {
            "token": self.precondition.value,
            "lease_ms": int(LEASE_SECONDS * 1000),
            "renewals": self._renewals,
            "renewed_at": self._renewed_at,
        }
        async with redis_call():
            verdict, renewals, run_id, renewed_at = await self._renew(self._keys, request)
        if verdict == b"rolled back":
            raise DatasetChanged(f"Redis went back from renewal {self._renewals} to {renewals}")
        if self._run_id not in {None, run_id}:
            raise DatasetChanged("Redis was restarted, restored or replaced")
        if verdict == b"lost":
            raise LeaseLost(self._name)
        self._renewals, self._run_id, self._renewed_at = renewals, run_id, float(renewed_at)

    async def release(self) -> None:
        """Give up the lease, so that the next holder need not wait. If Redis does not answer, the lease expires."""
        try:
            await self._lock.release()
        except (LockError, RedisError, OSError):
            return

    async def _try_acquire(self) -> bool:
        try:
            return bool(await self._lock.acquire())
        except (RedisError, OSError):
            return False
