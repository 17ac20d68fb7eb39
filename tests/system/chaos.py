"""Faults of processes that repeat while a test does something else."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

from tests.system.conftest import System


@dataclass(slots=True)
class Repetitions:
    count: int = 0


@asynccontextmanager
async def repeat(
    action: Callable[[], Awaitable[None]], every: float, *, at_least: int = 1, seed: int = 1
) -> AsyncIterator[Repetitions]:
    """Run `action` about every `every` seconds while the block runs, and at least `at_least` times.

    An action that has started is always finished.
    """
    end, repetitions, pauses = asyncio.Event(), Repetitions(), random.Random(seed)

    async def repeat_action() -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every * pauses.uniform(0.5, 1.5)):
                    await end.wait()
            if end.is_set() and repetitions.count >= at_least:
                return
            await action()
            repetitions.count += 1

    task = asyncio.create_task(repeat_action(), name="chaos")
    try:
        yield repetitions
    finally:
        end.set()
        await task


def kill_workers(system: System, every: float = 1.0, seed: int = 1) -> AbstractAsyncContextManager[Repetitions]:
    """Kill (SIGKILL) a random worker again and again, and start another worker each time."""
    choices = random.Random(seed)

    async def kill() -> None:
        worker = choices.choice([worker for worker in system.stack.workers if worker.exit_code is None])
        await worker.kill()
        await system.stack.start_worker()

    return repeat(kill, every, seed=seed)


def kill_apis(system: System, every: float = 0.5, seed: int = 1) -> AbstractAsyncContextManager[Repetitions]:
    """Kill (SIGKILL) a random API process again and again, and start it on its port each time."""
    choices = random.Random(seed)

    async def kill() -> None:
        number = choices.randrange(len(system.stack.apis))
        await system.stack.apis[number].kill()
        await system.stack.restart_api(number)

    return repeat(kill, every, seed=seed)


def restart_valkey(
    system: System, every: float = 2.0, *, times: int = 3, seed: int = 1
) -> AbstractAsyncContextManager[Repetitions]:
    """Kill (SIGKILL) and stop (SIGTERM) Valkey in turn, at least `times` times, and start it with its data."""
    is_killed = itertools.cycle((True, False))

    async def restart() -> None:
        await (system.stack.valkey.kill() if next(is_killed) else system.stack.valkey.stop())
        await system.stack.start_valkey()

    return repeat(restart, every, at_least=times, seed=seed)
