"""Leadership as a lease in Redis: one holder at a time, which renews it. If the holder dies, the lease expires."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from shared.errors import StoreUnavailable
from shared.store.update import Precondition

LEASE_SECONDS = 8.0
"""Expiry of a lease that is not renewed. With RETRY_SECONDS it keeps the promise of 10 s (docs/architecture.md)."""
RENEW_SECONDS = 2.0
RETRY_SECONDS = 1.0


class LeaseLost(Exception):
    """Another worker holds the lease by now, or Redis lost it. The former holder must stop."""


class Lease:
    """One object a term; not reentrant."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._lock: Lock = redis.lock(name, timeout=LEASE_SECONDS, blocking=False, thread_local=False)
        self._name = name

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
            StoreUnavailable: Redis does not answer.
        """
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._lock.extend(LEASE_SECONDS, replace_ttl=True)
            except LockError as error:
                raise LeaseLost(self._name) from error
            except (RedisError, OSError) as error:
                raise StoreUnavailable(error) from error

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
