"""The work queue: deduplicated, one run of a key at a time, back-off per key."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from worker.reflectors.work_queue import WorkQueue

pytestmark = pytest.mark.anyio

FAR = 3600.0
"""A delay that no test waits for."""


async def is_empty(queue: WorkQueue[str]) -> bool:
    """True if no key is ready. Every ready key is delivered without waiting."""
    try:
        async with asyncio.timeout(0):
            await queue.get()
    except TimeoutError:
        return True
    return False


async def test_key_added_twice_runs_once():
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert await is_empty(queue)


async def test_key_added_while_it_runs_runs_again_afterwards():
    """A change that arrives during a reconcile may not be seen by it."""
    queue = WorkQueue[str]()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    assert await is_empty(queue)
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert await is_empty(queue)


async def test_failed_key_runs_again_after_a_delay_that_grows(monkeypatch: pytest.MonkeyPatch):
    delays: list[float] = []
    loop = asyncio.get_running_loop()

    def call_later(seconds: float, callback: Callable[..., object], *_: object) -> asyncio.TimerHandle:
        delays.append(seconds)
        return asyncio.TimerHandle(0, callback, (), loop)

    queue = WorkQueue[str]()
    monkeypatch.setattr(loop, "call_later", call_later)
    for _ in range(4):
        queue.add("a")
        await queue.get()
        queue.retry("a")
    assert all(later > earlier * 0.99 for earlier, later in pairwise(delays))
    queue.add("a")
    await queue.get()
    queue.done("a")
    queue.add("a")
    await queue.get()
    queue.retry("a")
    assert delays[-1] <= delays[0] * 2  # a success ends the growth
    queue.add("a")
    await queue.get()
    queue.retry("a", retry_after=77)
    assert delays[-1] == 77  # the server's word counts


async def test_event_ends_the_back_off_of_its_key():
    queue = WorkQueue[str]()
    queue.add("a")
    await queue.get()
    queue.retry("a", retry_after=FAR)
    assert await is_empty(queue)
    queue.add("a")
    assert await queue.get() == "a"
    queue.close()


async def test_delayed_key_runs_once_though_it_is_delayed_twice():
    queue = WorkQueue[str]()
    queue.add_after("a", 0.01)
    queue.add_after("a", 0.02)
    assert await queue.get() == "a"
    queue.done("a")
    assert await is_empty(queue)


async def test_delay_of_a_waiting_key_is_ignored():
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add_after("a", 0)
    assert await queue.get() == "a"
    assert await is_empty(queue)


async def test_join_waits_for_runs_and_not_for_delays():
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add_after("b", FAR)
    joined = asyncio.create_task(queue.join())
    await queue.get()
    queue.add("a")
    queue.done("a")
    await asyncio.sleep(0)
    assert not joined.done()
    await queue.get()
    queue.retry("a", retry_after=FAR)
    await joined
    queue.close()


async def test_close_cancels_delays():
    queue = WorkQueue[str]()
    queue.add_after("a", 0.001)
    queue.close()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.002, later.set)
    await later.wait()
    assert await is_empty(queue)
