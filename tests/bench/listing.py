"""Times of lists, and of reads while another client lists."""

import asyncio
from collections.abc import Callable

import msgspec

from tests.bench import goals
from tests.bench.figures import Samples
from tests.bench.goals import Goal
from tests.bench.load import Send, closed_loop, expect_status, open_loop
from tests.bench.reading import reads
from tests.bench.records import write_ready
from tests.bench.report import Finding, finding_of_times
from tests.bench.system import Context, System, open_system

GOALS = (goals.LIST, goals.PAGE, goals.GET_BESIDE_LISTS)
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
    """Reads all pages, again and again."""

    def __init__(self, system: System) -> None:
        self._api = system.api
        self._cursor: str | None = None

    async def send(self, _: int) -> None:
        cursor = f"&cursor={self._cursor}" if self._cursor else ""
        response = expect_status(await self._api.request("GET", f"/api/sandboxes?limit={PAGE}{cursor}"), 200)
        self._cursor = _page(response.body).next_cursor


async def measure(context: Context) -> None:
    async with open_system(context, workers=0) as system:
        ids = await write_ready(system, range(FEW))
        await _measure_list(system)
        await write_ready(system, range(FEW, MANY))
        await _measure_pages(system)
        await _measure_reads_beside(system, ids)


async def _measure_list(system: System) -> None:
    async def send(_: int) -> None:
        response = expect_status(await system.api.request("GET", "/api/sandboxes"), 200)
        if _page(response.body).count != FEW:
            raise ValueError(f"a list of {_page(response.body).count} instead of {FEW}")

    await _compare_with_bare(system, goals.LIST, send, lambda _: f"/many/0/{FEW}", max(5, system.context.n // 10), FEW)


async def _measure_pages(system: System) -> None:
    pages = MANY // PAGE

    def path(number: int) -> str:
        return f"/many/{number % pages * PAGE}/{PAGE}"

    await _compare_with_bare(system, goals.PAGE, Pages(system).send, path, pages, PAGE)


async def _compare_with_bare(
    system: System, goal: Goal, send: Send, path: Callable[[int], str], count: int, records: int
) -> None:
    async def send_bare(number: int) -> None:
        expect_status(await system.bare.request("GET", path(number)), 200)

    product, limit = Samples(), Samples()
    for _ in range(ROUNDS):
        product += await closed_loop(send, count, 1)
        limit += await closed_loop(send_bare, count, 1)
    description = f"a bare handler that joins {records} records: one ZRANGE, one MGET"
    system.context.report.add(finding_of_times(goal, product, limit, description))


async def _measure_reads_beside(system: System, ids: list[str]) -> None:
    """Read at a fixed rate: alone, then while another client reads page after page without a pause."""
    read, count = reads(system.api, "/api/sandboxes/", ids[:100]), 2 * system.context.n
    alone, beside, pages = Samples(), Samples(), Samples()
    for _ in range(2):
        alone += await open_loop(read, count // 2, RATE, 8)
        listing = asyncio.create_task(_send_until_cancelled(Pages(system).send, pages))
        beside += await open_loop(read, count // 2, RATE, 8)
        listing.cancel()
        await asyncio.wait([listing])
    system.context.report.add(
        Finding(
            goal=goals.GET_BESIDE_LISTS,
            figure=beside.p99_ms,
            limit=alone.p99_ms,
            limit_description="the same reads, 50 a second, without a list: p99",
            p50=beside.p50_ms,
            p99=beside.p99_ms,
            failures=alone.failures + beside.failures + pages.failures,
            details={"alone_p50_ms": alone.p50_ms, "pages_read": float(len(pages.seconds))},
        )
    )


async def _send_until_cancelled(send: Send, samples: Samples) -> None:
    while True:
        one = await closed_loop(send, 1, 1)
        samples.seconds += one.seconds
        samples.failures += one.failures
