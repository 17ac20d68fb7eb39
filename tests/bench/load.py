"""How requests are sent: so many at once, each after the last; or at a pace, whatever becomes of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.bench.figures import Taken
from tests.bench.wire import Answer, Lost

Ask = Callable[[int], Awaitable[object]]
"""Makes the request with this number. Raises Refused: its answer is not the one that was to be measured."""


class Refused(Exception):
    """Says how it was answered instead."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.body[:80].decode(errors='replace')}")


def expect(answer: Answer, *statuses: int) -> Answer:
    """Raises Refused."""
    if answer.status not in statuses:
        raise Refused(answer)
    return answer


async def closed(ask: Ask, count: int, at_once: int) -> Taken:
    """`count` requests from `at_once` clients, each of which sends the next when it has its answer."""
    taken, numbers = Taken(), iter(range(count))
    began = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            await _timed(ask, number, taken, time.perf_counter())

    await asyncio.gather(*(client() for _ in range(at_once)))
    taken.wall = time.perf_counter() - began
    return taken


async def paced(ask: Ask, count: int, rate: float, at_once: int) -> Taken:
    """`rate` a second from at most `at_once` clients. Times count from when a request was due: one that has to wait
    for a client, as the others wait for their answers, has waited."""
    taken, numbers = Taken(), iter(range(count))
    began = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            due = began + number / rate
            await asyncio.sleep(due - time.perf_counter())
            await _timed(ask, number, taken, max(due, began))

    await asyncio.gather(*(client() for _ in range(at_once)))
    taken.wall = time.perf_counter() - began
    return taken


async def _timed(ask: Ask, number: int, taken: Taken, since: float) -> None:
    try:
        await ask(number)
    except (Refused, Lost, OSError, TimeoutError) as error:
        taken.failures[str(error) or type(error).__name__] += 1
    else:
        taken.seconds.append(time.perf_counter() - since)
