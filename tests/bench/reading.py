"""Reads by id that one API process answers, in turn with a bare handler with one Redis GET."""

from tests.bench import goals
from tests.bench.load import Send, closed_loop, expect_status
from tests.bench.records import write_ready
from tests.bench.report import finding_of_rates
from tests.bench.system import Context, open_system
from tests.bench.wire import Wire

GOALS = (goals.GET,)
RECORDS = 100
CONCURRENCY = 32
ROUNDS = 4


def reads(wire: Wire, path: str, ids: list[str]) -> Send:
    """Return a function that reads these ids in turn. The id is appended to `path`."""

    async def send(number: int) -> None:
        expect_status(await wire.request("GET", path + ids[number % len(ids)]), 200)

    return send


async def measure(context: Context) -> None:
    async with open_system(context, workers=0) as system:
        ids = await write_ready(system, range(RECORDS))
        api_reads, bare_reads = reads(system.api, "/api/sandboxes/", ids), reads(system.bare, "/one/", ids)
        await closed_loop(api_reads, 10 * CONCURRENCY, CONCURRENCY)
        await closed_loop(bare_reads, 10 * CONCURRENCY, CONCURRENCY)
        before = await system.meter.read()
        product, limits = [], []
        for _ in range(ROUNDS):
            product.append(await closed_loop(api_reads, 10 * context.n, CONCURRENCY))
            limits.append(await closed_loop(bare_reads, 10 * context.n, CONCURRENCY))
        context.report.usage["reads, 32 at once"] = await system.meter.since(before, ROUNDS * 10 * context.n)
        description = "a bare handler with one Redis GET, the same record, server and client"
        context.report.add(finding_of_rates(goals.GET, product, limits, description))
