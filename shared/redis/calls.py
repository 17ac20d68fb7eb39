"""The deadline of a call to Redis, and the errors of redis-py as errors of this service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from redis.exceptions import RedisError

from shared import metrics
from shared.errors import StoreUnavailable

CALL_SECONDS = 1.5
"""Limit for a call with all its retries. The API promises its 503 within 2 s, and DeerFlow's client waits for 10 s."""


@contextlib.asynccontextmanager
async def redis_call() -> AsyncIterator[None]:
    """Run the calls of the body under one deadline, and translate their errors.

    A call that is cancelled in the middle closes its connection, so that no reply is left for the next call.

    Raises:
        StoreUnavailable: Redis does not answer in time; a write was carried out or not.
    """
    deadline = asyncio.timeout(CALL_SECONDS)
    with translate_redis_errors():
        try:
            async with deadline:
                yield
        except TimeoutError as error:
            text = f"no reply within {CALL_SECONDS:g} s" if deadline.expired() else str(error)
            raise TimeoutError(text) from error


@contextlib.contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Turn exceptions of redis-py into errors of this service, without a deadline.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        metrics.REDIS_ERRORS.inc()
        raise StoreUnavailable(error) from error
