"""How long lists take, and whether they keep others waiting."""

import asyncio
from collections.abc import Callable

import msgspec

from tests.bench import goals
from tests.bench.figures import Taken
from tests.bench.goals import Goal
from tests.bench.load import Ask, closed, expect, paced
from tests.bench.reading import reading
from tests.bench.records import write
from tests.bench.report import Finding, of_times
from tests.bench.system import Given, System, system

GOALS = (goals.LIST, goals.PAGE, goals.GET_BESIDE)
FEW = 1000
MANY = 10_000
PAGE = 500
ROUNDS = 3
RATE = 50.0
"""Reads a second beside the lists."""


class _Page(msgspec.Struct):
    count: int
    next_cursor: str | None = None


_page = msgspec.json.Decoder(_Page).decode


class Pages:
    """Goes through all pages, again and again."""

    def __init__(self, running: System) -> None:
        self._api = running.api
        self._cursor: str | None = None

    async def ask(self, _: int) -> None:
        after = f"&cursor={self._cursor}" if self._cursor else ""
        answer = expect(await self._api.ask("GET", f"/api/sandboxes?limit={PAGE}{after}"), 200)
        self._cursor = _page(answer.body).next_cursor


async def measure(given: Given) -> None:
    async with system(given, workers=0) as running:
        ids = await write(running, range(FEW))
        await _list(running)
        await write(running, range(FEW, MANY))
        await _pages(running)
        await _beside(running, ids)


async def _list(running: System) -> None:
    async def ask(_: int) -> None:
        answer = expect(await running.api.ask("GET", "/api/sandboxes"), 200)
        if _page(answer.body).count != FEW:
            raise ValueError(f"a list of {_page(answer.body).count} instead of {FEW}")

    against = f"a bare handler that joins {FEW} records: one ZRANGE, one MGET"
    await _beside_bare(running, goals.LIST, ask, lambda _: f"/many/0/{FEW}", max(5, running.given.n // 10), against)


async def _pages(running: System) -> None:
    pages = MANY // PAGE
    against = f"a bare handler that joins {PAGE} records: one ZRANGE, one MGET"

    def path(number: int) -> str:
        return f"/many/{number % pages * PAGE}/{PAGE}"

    await _beside_bare(running, goals.PAGE, Pages(running).ask, path, pages, against)


async def _beside_bare(
    running: System, goal: Goal, our: Ask, path: Callable[[int], str], count: int, against: str
) -> None:
    async def bare(number: int) -> None:
        expect(await running.bare.ask("GET", path(number)), 200)

    ours, limit = Taken(), Taken()
    for _ in range(ROUNDS):
        ours += await closed(our, count, 1)
        limit += await closed(bare, count, 1)
    running.given.report.add(of_times(goal, ours, limit, against))


async def _beside(running: System, ids: list[str]) -> None:
    """Reads at a pace: alone, then while another client reads page after page without a pause."""
    read, count = reading(running.api, "/api/sandboxes/", ids[:100]), 2 * running.given.n
    alone, beside, listed = Taken(), Taken(), Taken()
    for _ in range(2):
        alone += await paced(read, count // 2, RATE, 8)
        pages = asyncio.create_task(_until_cancelled(Pages(running).ask, listed))
        beside += await paced(read, count // 2, RATE, 8)
        pages.cancel()
        await asyncio.wait([pages])
    running.given.report.add(
        Finding(
            goal=goals.GET_BESIDE,
            figure=beside.p99_ms,
            limit=alone.p99_ms,
            against="the same reads, 50 a second, while nobody lists: p99",
            p50=beside.p50_ms,
            p99=beside.p99_ms,
            failures=alone.failures + beside.failures + listed.failures,
            details={"alone_p50_ms": alone.p50_ms, "pages_read": float(len(listed.seconds))},
        )
    )


async def _until_cancelled(ask: Ask, into: Taken) -> None:
    while True:
        some = await closed(ask, 1, 1)
        into.seconds += some.seconds
        into.failures += some.failures
