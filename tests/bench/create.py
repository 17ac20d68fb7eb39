"""Time until a sandbox has its URL, and creates a second, in turn with two plain calls.

The product gets `Prefer: wait`, so that its answer has the URL. The sandboxes of a round are removed before the next.
"""

import asyncio
import secrets

from tests.bench import goals
from tests.bench.figures import Samples
from tests.bench.load import closed_loop, expect_status
from tests.bench.plain import PlainClient, open_plain_beside
from tests.bench.report import Finding, finding_of_rates, finding_of_times
from tests.bench.system import Context, System, open_system
from tests.bench.wire import Wire

GOALS = (goals.TO_URL, goals.CREATES, goals.WRITES)
CONCURRENCY = 50
LATENCY_ROUNDS = 4
RATE_ROUNDS = 3
READY_SECONDS = 90.0
POLL_SECONDS = 0.05


class Round:
    """The sandboxes of one round, with ids that no other round has."""

    def __init__(self, api: Wire, count: int) -> None:
        self._api = api
        run = secrets.token_hex(4)
        self.ids = [f"{run}{number:08}" for number in range(count)]

    async def create(self, number: int) -> None:
        """Create a sandbox, and wait for the answer with its URL.

        Raises:
            UnexpectedStatus: the answer is neither 200 nor 202.
            TimeoutError: there is no URL within 30 s.
        """
        body = f'{{"sandbox_id": "{self.ids[number]}", "user_id": "bench"}}'.encode()
        response = expect_status(await self._api.request("POST", "/api/sandboxes", body, Prefer="wait=30"), 200, 202)
        if b'"sandbox_url":"http' not in response.body:
            raise TimeoutError("no URL within 30 s")

    async def remove(self, number: int) -> None:
        """Delete a sandbox, and wait until it is gone."""
        expect_status(await self._api.request("DELETE", f"/api/sandboxes/{self.ids[number]}", Prefer="wait=30"), 200)


async def measure(context: Context) -> None:
    async with open_system(context, workers=2) as system, open_plain_beside(system.settings) as plain:
        await _run_round(system, 8, 4)
        await _run_plain_round(plain, 8, 4)
        await _measure_latency(system, plain)
        await _measure_rate(system, plain)
        await _measure_cost(system)


async def _measure_latency(system: System, plain: PlainClient) -> None:
    product, limit, count = Samples(), Samples(), max(1, system.context.n // LATENCY_ROUNDS)
    for _ in range(LATENCY_ROUNDS):
        product += await _run_round(system, count, 1, f"{count} creates until URL, one at a time")
        limit += await _run_plain_round(plain, count, 1)
    description = "two plain creates in sequence, same Pod and Service, same API server"
    system.context.report.add(finding_of_times(goals.TO_URL, product, limit, description))


async def _measure_rate(system: System, plain: PlainClient) -> None:
    product, limits = [], []
    count = max(CONCURRENCY, 3 * system.context.n)
    for _ in range(RATE_ROUNDS):
        product.append(
            await _run_round(system, count, CONCURRENCY, f"{count} creates until URL, {CONCURRENCY} at once")
        )
        limits.append(await _run_plain_round(plain, count, CONCURRENCY))
    description = f"plain creates of Pod and Service, {CONCURRENCY} at once, same API server"
    system.context.report.add(finding_of_rates(goals.CREATES, product, limits, description))


async def _run_round(system: System, count: int, concurrency: int, measurement: str = "") -> Samples:
    """Create sandboxes, wait until they are ready, remove them, and return the samples of the creates.

    A failure of any of these steps counts. With a `measurement`, report what the processes used for the creates.
    """
    batch = Round(system.api, count)
    before = await system.meter.read()
    samples = await closed_loop(batch.create, count, concurrency)
    if measurement:
        system.context.report.usage[measurement] = await system.meter.since(before, count)
    if not samples.failures:
        await until_ready(system, batch.ids)
    removal = await closed_loop(batch.remove, count, CONCURRENCY)
    samples.failures += removal.failures
    return samples


async def until_ready(system: System, ids: list[str]) -> None:
    """Wait until all these sandboxes are ready.

    Raises:
        TimeoutError: some are not ready within READY_SECONDS; the message has their number.
    """
    waiting = len(ids)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while waiting:
                records = await system.records(ids)
                waiting = sum(record is None or not record.ready for record in records)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"{waiting} of {len(ids)} are not ready within {READY_SECONDS:.0f} s") from None


async def _run_plain_round(plain: PlainClient, count: int, concurrency: int) -> Samples:
    run = secrets.token_hex(4)

    async def send(number: int) -> None:
        await plain.create(f"{run}{number:08}")

    samples = await closed_loop(send, count, concurrency)
    await plain.clear()
    return samples


async def _measure_cost(system: System) -> None:
    """Count what one sandbox costs, from its create until it is gone, while a few run at once."""
    report, count = system.context.report, max(10, system.context.n // 2)
    before = await system.meter.read()
    samples = await _run_round(system, count, 5)
    usage = await system.meter.since(before)
    report.per_sandbox |= {
        "Redis commands, those in scripts too": usage.redis_commands / count,
        "Redis round trips (reads of its sockets)": usage.reads / count,
        **{f"  {name}": calls / count for name, calls in usage.commands.most_common(12)},
    }
    if not system.context.is_emulated:
        report.miss((goals.WRITES,), "only the emulated cluster counts calls")
        return
    report.per_sandbox |= {
        "Kubernetes writes": usage.kubernetes_writes / count,
        "Kubernetes reads": usage.kubernetes_reads / count,
        **{f"  {name}": calls / count for name, calls in usage.calls.most_common(8)},
    }
    report.add(
        Finding(
            goal=goals.WRITES,
            figure=usage.kubernetes_writes / count,
            limit=3.0,
            limit_description="by hand: create Pod, create Service, delete Pod (its Service follows)",
            failures=samples.failures,
        )
    )
