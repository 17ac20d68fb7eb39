"""Load of requests: a closed loop of clients, or an open loop at a fixed rate."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.bench.figures import Samples
from tests.bench.wire import ConnectionLost, Response

Send = Callable[[int], Awaitable[object]]
"""Sends the request with this number. Raises UnexpectedStatus if the answer is not the one to be measured."""


class UnexpectedStatus(Exception):
    """The answer has another status than the measurement needs. The message shows the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status} {response.body[:80].decode(errors='replace')}")


def expect_status(response: Response, *statuses: int) -> Response:
    """Return the response if it has one of the statuses.

    Raises:
        UnexpectedStatus: the response has another status.
    """
    if response.status not in statuses:
        raise UnexpectedStatus(response)
    return response


async def closed_loop(send: Send, count: int, concurrency: int) -> Samples:
    """Send `count` requests from `concurrency` clients. Each client waits for its answer before its next request."""
    samples, numbers = Samples(), iter(range(count))
    started_at = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            await _measure(send, number, samples, time.perf_counter())

    await asyncio.gather(*(client() for _ in range(concurrency)))
    samples.wall = time.perf_counter() - started_at
    return samples


async def open_loop(send: Send, count: int, rate: float, concurrency: int) -> Samples:
    """Send `count` requests, `rate` a second, from at most `concurrency` clients.

    A sample starts when its request is due. So the wait for a free client counts.
    """
    samples, numbers = Samples(), iter(range(count))
    started_at = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            due = started_at + number / rate
            await asyncio.sleep(due - time.perf_counter())
            await _measure(send, number, samples, due)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    samples.wall = time.perf_counter() - started_at
    return samples


async def _measure(send: Send, number: int, samples: Samples, since: float) -> None:
    try:
        await send(number)
    except (UnexpectedStatus, ConnectionLost, OSError, TimeoutError) as error:
        samples.failures[str(error) or type(error).__name__] += 1
    else:
        samples.seconds.append(time.perf_counter() - since)
