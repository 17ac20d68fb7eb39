"""Waits with an upper bound: a test that waits too long fails with a description of what it waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

SECONDS = 15.0
"""Upper bound of a wait inside one process. A condition that comes true ends the wait at once."""

T = TypeVar("T")


async def eventually(
    check: Callable[[], Awaitable[T | None]],
    description: str,
    *,
    seconds: float = SECONDS,
    interval: float = 0.01,
    actual: Callable[[], Awaitable[object]] | None = None,
) -> T:
    """Call `check` every `interval` seconds and return its first truthy result.

    A failure shows `description`, and the result of `actual` if given.
    """
    try:
        async with asyncio.timeout(seconds):
            while not (result := await check()):
                await asyncio.sleep(interval)
            return result
    except TimeoutError:
        pytest.fail(f"not within {seconds:g} s: {description}" + (f"; instead: {await actual()}" if actual else ""))


async def eventually_true(check: Callable[[], bool], description: str, *, seconds: float = SECONDS) -> None:
    """Call the plain function `check` until it returns True."""

    async def checked() -> bool:
        return check()

    await eventually(checked, description, seconds=seconds, interval=0.005)


async def within(awaitable: Awaitable[T], seconds: float = SECONDS) -> T:
    """Return the result of `awaitable`, or raise TimeoutError."""
    async with asyncio.timeout(seconds):
        return await awaitable
