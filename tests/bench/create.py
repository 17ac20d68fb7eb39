"""How long it takes until there is a URL, and how many a second: beside the two plain calls, in turn, A B A B.

The product is asked with `Prefer: wait`, so that its answer is the URL; every round is removed before the next.
"""

import asyncio
import secrets

from tests.bench import goals
from tests.bench.figures import Taken
from tests.bench.load import closed, expect
from tests.bench.plain import Plain, beside
from tests.bench.report import Finding, of_rates, of_times
from tests.bench.system import Given, System, system
from tests.bench.wire import Wire

GOALS = (goals.TO_URL, goals.CREATES, goals.WRITES)
AT_ONCE = 50
ROUNDS_ONE = 4
ROUNDS_MANY = 3
READY_SECONDS = 90.0
POLL_SECONDS = 0.05


class Round:
    """The sandboxes of one round, by ids of their own."""

    def __init__(self, api: Wire, count: int) -> None:
        self._api = api
        run = secrets.token_hex(4)
        self.ids = [f"{run}{number:08}" for number in range(count)]

    async def create(self, number: int) -> None:
        """Until the answer has its URL."""
        body = f'{{"sandbox_id": "{self.ids[number]}", "user_id": "bench"}}'.encode()
        answer = expect(await self._api.ask("POST", "/api/sandboxes", body, Prefer="wait=30"), 200, 202)
        if b'"sandbox_url":"http' not in answer.body:
            raise TimeoutError("no URL within 30 s")

    async def remove(self, number: int) -> None:
        """Until it is gone."""
        expect(await self._api.ask("DELETE", f"/api/sandboxes/{self.ids[number]}", Prefer="wait=30"), 200)


async def measure(given: Given) -> None:
    async with system(given, workers=2) as running, beside(running.settings) as plain:
        await _round(running, 8, 4)
        await _plain_round(plain, 8, 4)
        await _to_url(running, plain)
        await _rate(running, plain)
        await _life(running)


async def _to_url(running: System, plain: Plain) -> None:
    ours, limit, count = Taken(), Taken(), max(1, running.given.n // ROUNDS_ONE)
    for _ in range(ROUNDS_ONE):
        ours += await _round(running, count, 1, f"{count} creates until URL, one at a time")
        limit += await _plain_round(plain, count, 1)
    against = "two plain creates in sequence, same Pod and Service, same API server"
    running.given.report.add(of_times(goals.TO_URL, ours, limit, against))


async def _rate(running: System, plain: Plain) -> None:
    ours, limits = [], []
    count = max(AT_ONCE, 3 * running.given.n)
    for _ in range(ROUNDS_MANY):
        ours.append(await _round(running, count, AT_ONCE, f"{count} creates until URL, {AT_ONCE} at once"))
        limits.append(await _plain_round(plain, count, AT_ONCE))
    against = f"plain creates of Pod and Service, {AT_ONCE} at once, same API server"
    running.given.report.add(of_rates(goals.CREATES, ours, limits, against))


async def _round(running: System, count: int, at_once: int, name: str = "") -> Taken:
    """What its creates took; then they become ready, and are removed. What fails in that fails the round.

    What the processes used for the creates of the last round of a `name` is reported.
    """
    some = Round(running.api, count)
    before = await running.meter.read()
    taken = await closed(some.create, count, at_once)
    if name:
        running.given.report.spent[name] = await running.meter.since(before, count)
    if not taken.failures:
        await until_ready(running, some.ids)
    removed = await closed(some.remove, count, AT_ONCE)
    taken.failures += removed.failures
    return taken


async def until_ready(running: System, ids: list[str]) -> None:
    """Raises TimeoutError, with how many are not."""
    waiting = len(ids)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while waiting:
                found = await running.records(ids)
                waiting = sum(record is None or not record.ready for record in found)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"{waiting} of {len(ids)} are not ready within {READY_SECONDS:.0f} s") from None


async def _plain_round(plain: Plain, count: int, at_once: int) -> Taken:
    run = secrets.token_hex(4)

    async def ask(number: int) -> None:
        await plain.create(f"{run}{number:08}")

    taken = await closed(ask, count, at_once)
    await plain.clear()
    return taken


async def _life(running: System) -> None:
    """What a sandbox costs from its create till it is gone, a few at a time."""
    report, count = running.given.report, max(10, running.given.n // 2)
    before = await running.meter.read()
    taken = await _round(running, count, 5)
    spent = await running.meter.since(before)
    report.per_sandbox |= {
        "Redis commands, those in scripts too": spent.redis_commands / count,
        "Redis round trips (reads of its sockets)": spent.reads / count,
        **{f"  {name}": calls / count for name, calls in spent.commands.most_common(12)},
    }
    if not running.given.is_emulated:
        report.miss((goals.WRITES,), "only the emulated cluster counts the calls it gets")
        return
    report.per_sandbox |= {
        "Kubernetes writes": spent.kubernetes_writes / count,
        "Kubernetes reads": spent.kubernetes_reads / count,
        **{f"  {name}": calls / count for name, calls in spent.calls.most_common(8)},
    }
    report.add(
        Finding(
            goal=goals.WRITES,
            figure=spent.kubernetes_writes / count,
            limit=3.0,
            against="by hand: create Pod, create Service, delete Pod (its Service follows)",
            failures=taken.failures,
        )
    )
