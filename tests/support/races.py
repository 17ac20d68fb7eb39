"""Races: another process writes while a mutate function runs."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from shared.sandbox.record import Sandbox
from shared.store.update import MutateOrCreate, Update

Action = Callable[[], Awaitable[object]]


def run_in_thread(action: Action) -> None:
    """Run `action` to its end in an event loop of another thread, while the caller's event loop stands still."""

    async def run() -> None:
        await action()

    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, run()).result()


class Overtaken:
    """Mutate function that another process overtakes: `action` runs during the first call.

    `calls` holds the record of each call.
    """

    def __init__(self, mutate: MutateOrCreate, action: Action) -> None:
        self.calls: list[Sandbox | None] = []
        self._mutate = mutate
        self._action = action

    def __call__(self, current: Sandbox | None) -> Sandbox | Update | None:
        self.calls.append(current)
        if len(self.calls) == 1:
            run_in_thread(self._action)
        return self._mutate(current)
