"""How many reads by id one API process answers, beside a bare handler with one Redis GET: in turn, A B A B."""

from tests.bench import goals
from tests.bench.load import Ask, closed, expect
from tests.bench.records import write
from tests.bench.report import of_rates
from tests.bench.system import Given, system
from tests.bench.wire import Wire

GOALS = (goals.GET,)
RECORDS = 100
AT_ONCE = 32
ROUNDS = 4


def reading(wire: Wire, path: str, ids: list[str]) -> Ask:
    """`path` ends where the id follows."""

    async def ask(number: int) -> None:
        expect(await wire.ask("GET", path + ids[number % len(ids)]), 200)

    return ask


async def measure(given: Given) -> None:
    async with system(given, workers=0) as running:
        ids = await write(running, range(RECORDS))
        our, bare = reading(running.api, "/api/sandboxes/", ids), reading(running.bare, "/one/", ids)
        await closed(our, 10 * AT_ONCE, AT_ONCE)
        await closed(bare, 10 * AT_ONCE, AT_ONCE)
        before = await running.meter.read()
        ours, limits = [], []
        for _ in range(ROUNDS):
            ours.append(await closed(our, 10 * given.n, AT_ONCE))
            limits.append(await closed(bare, 10 * given.n, AT_ONCE))
        given.report.spent["reads, 32 at once"] = await running.meter.since(before, ROUNDS * 10 * given.n)
        against = "a bare handler with one Redis GET, the same record, server and client"
        given.report.add(of_rates(goals.GET, ours, limits, against))
