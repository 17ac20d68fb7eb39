"""What happens to the processes of a system, again and again while something else goes on."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

from tests.system.conftest import System


@dataclass(slots=True)
class Strikes:
    count: int = 0


@asynccontextmanager
async def repeated(
    strike: Callable[[], Awaitable[None]], every: float, *, at_least: int = 1, seed: int = 1
) -> AsyncIterator[Strikes]:
    """Strikes about `every` so many seconds while the block runs, and `at_least` so often; never stops halfway."""
    over, strikes, moments = asyncio.Event(), Strikes(), random.Random(seed)

    async def go_on() -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every * moments.uniform(0.5, 1.5)):
                    await over.wait()
            if over.is_set() and strikes.count >= at_least:
                return
            await strike()
            strikes.count += 1

    striking = asyncio.create_task(go_on(), name="chaos")
    try:
        yield strikes
    finally:
        over.set()
        await striking


def killing_workers(system: System, every: float = 1.0, seed: int = 1) -> AbstractAsyncContextManager[Strikes]:
    """kill -9 of any worker, and a new one in its place."""
    choices = random.Random(seed)

    async def strike() -> None:
        worker = choices.choice([worker for worker in system.stack.workers if worker.exit_code is None])
        await worker.kill()
        await system.stack.start_worker()

    return repeated(strike, every, seed=seed)


def killing_apis(system: System, every: float = 0.5, seed: int = 1) -> AbstractAsyncContextManager[Strikes]:
    """kill -9 of any API process, which comes back on its port."""
    choices = random.Random(seed)

    async def strike() -> None:
        number = choices.randrange(len(system.stack.apis))
        await system.stack.apis[number].kill()
        await system.stack.restart_api(number)

    return repeated(strike, every, seed=seed)


def restarting_valkey(
    system: System, every: float = 2.0, *, times: int = 3, seed: int = 1
) -> AbstractAsyncContextManager[Strikes]:
    """kill -9 of Valkey and an orderly stop, in turn, `times` at least; it comes back with what it has written."""
    is_killed = itertools.cycle((True, False))

    async def strike() -> None:
        await (system.stack.valkey.kill() if next(is_killed) else system.stack.valkey.stop())
        await system.stack.start_valkey()

    return repeated(strike, every, at_least=times, seed=seed)
