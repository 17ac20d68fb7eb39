"""Leadership as a lease in Redis: one holder at a time, renewed while it lives, and soon another's when it dies."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from shared.errors import StoreUnavailable
from shared.store.update import Precondition

SECONDS = 8.0
"""How long a dead holder keeps others waiting; with RETRY_SECONDS it stays below the ten that design.md promises."""
RENEW_SECONDS = 2.0
RETRY_SECONDS = 1.0


class LeaseLost(Exception):
    """Another holds it by now, or Redis forgot it. Nothing may be done in its name any more."""


class Lease:
    """Not reentrant; one object a term."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._lock: Lock = redis.lock(name, timeout=SECONDS, blocking=False, thread_local=False)
        self._name = name

    @property
    def precondition(self) -> Precondition:
        """What the store checks in the very step that writes: a holder that was frozen writes nothing."""
        return Precondition(self._name, self._lock.local.token.decode())

    async def acquire(self) -> None:
        """Until it is ours. Redis being away is no reason to stop waiting."""
        while not await self._taken():
            await asyncio.sleep(RETRY_SECONDS)

    async def renew_forever(self) -> None:
        """Renews until cancelled. Raises LeaseLost, StoreUnavailable."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._lock.extend(SECONDS, replace_ttl=True)
            except LockError as error:
                raise LeaseLost(self._name) from error
            except (RedisError, OSError) as error:
                raise StoreUnavailable(error) from error

    async def release(self) -> None:
        """So that the next holder need not wait for its end. If Redis is away, it ends by itself."""
        try:
            await self._lock.release()
        except (LockError, RedisError, OSError):
            return

    async def _taken(self) -> bool:
        try:
            return bool(await self._lock.acquire())
        except (RedisError, OSError):
            return False
