"""Activity probes of a sandbox that answers over HTTP on this host."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from arq.connections import ArqRedis
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from deploy.local.stack import free_port
from shared.sandbox.expiry import ExpiryPolicy
from shared.sandbox.record import ExpiryCause, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, next_attempt, probing, provisioned, terminating, touched
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock
from tests.support.records import NOW, record_of, settings_of
from tests.support.store import put, remove
from tests.worker.conftest import queued, read
from worker.jobs.activity_probe import (
    MAX_BYTES,
    MAX_PROBES,
    PAUSE_SECONDS,
    TRIES,
    TRY_SECONDS,
    ActivityProbe,
    TooManyProbes,
    apply_activity,
)
from worker.jobs.sweep import PROBE_SECONDS

pytestmark = pytest.mark.anyio

ID = "abc"
IDLE_SECONDS = 600.0


@dataclass
class ProbedSandbox:
    """A sandbox that answers with each of `bodies` in turn, the last one again and again. `requests` are paths."""

    url: str = ""
    bodies: list[str | int | list[str]] = field(default_factory=lambda: ["{}"])
    """JSON; JSON in pieces; or the status of an error."""
    location: str = ""
    """Target of a redirect."""
    requests: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        result = self.meanwhile()
        if asyncio.iscoroutine(result):
            await result
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        if isinstance(body, list):
            return await respond_in_pieces(request, body)
        if isinstance(body, str):
            return web.Response(text=body)
        return web.Response(status=body, headers={"Location": self.location} if self.location else None)


async def respond_in_pieces(request: web.Request, pieces: list[str]) -> web.StreamResponse:
    """Send each piece when the one before has been read: the client runs on this event loop, too."""
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece.encode())
        for _ in range(20):
            await asyncio.sleep(0)
    return response


@pytest.fixture
async def sandbox() -> AsyncIterator[ProbedSandbox]:
    sandbox = ProbedSandbox()
    app = web.Application()
    app.router.add_get("/{path:.*}", sandbox.respond)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    sandbox.url = f"http://127.0.0.1:{port}"
    yield sandbox
    await runner.cleanup()


@asynccontextmanager
async def open_probe(store: Store, **options: float) -> AsyncIterator[ActivityProbe]:
    settings = settings_of(SANDBOX_ACTIVITY_PATH="/v1/activity?of=agent")
    probe = ActivityProbe(store, settings, **{"pause_seconds": 0.0, **options})
    async with probe.running():
        yield probe


@pytest.fixture
async def probe(store: Store) -> AsyncIterator[ActivityProbe]:
    async with open_probe(store) as probe:
        yield probe


async def put_idle(store: Store, clock: Clock, url: str, **fields: Any) -> Sandbox:
    """Write an idle record with a running probe, as the sweep does."""
    record = record_of(ID, idle_timeout=IDLE_SECONDS, **fields)
    made = provisioned(record, ProvisionedObjects("sandbox-abc", "u", "service", url), now=record.created_at)
    clock.advance(IDLE_SECONDS)
    return await put(store, next_attempt(probing(replace(made, status=Status.RUNNING), clock.now + 60)))


async def run_probe(probe: ActivityProbe, record: Sandbox) -> None:
    await probe.run(record.id, record.incarnation, record.attempt)


def is_ended(record: Sandbox) -> bool:
    return record.status is Status.TERMINATING


async def test_probe_of_active_sandbox_restarts_its_idle_timeout(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, valkey: ArqRedis
):
    sandbox.bodies = ['{"active": true}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert sandbox.requests == ["/v1/activity?of=agent"]
    assert (after.status, after.last_used_at, after.probing_until) == (Status.RUNNING, clock.now, None)
    assert after.due_at == clock.now + IDLE_SECONDS
    assert await queued(valkey) == []


@pytest.mark.parametrize("body", ['{"active": false}', "{}", '{"active": false, "last_activity": null, "more": 1}'])
async def test_probe_of_idle_sandbox_ends_it_with_one_job(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, valkey: ArqRedis, body: str
):
    sandbox.bodies = [body]
    record = await put_idle(store, clock, sandbox.url)
    await run_probe(probe, record)
    after = await read(store, ID)
    assert (is_ended(after), after.expired_by, after.expired_at) == (True, ExpiryCause.IDLE, clock.now)
    assert await queued(valkey) == [f"terminate:abc:{record.incarnation}:{record.attempt + 1}"]


RECENT = [
    "2025-06-15T15:16:30Z",
    "2025-06-15T17:16:30+02:00",
    "2025-06-15T15:16:30.000Z",
    1_750_000_590,
    1_750_000_590.0,
    1_750_000_590_000,
    1_750_000_590_000.0,
]


@pytest.mark.parametrize("at", RECENT, ids=str)
async def test_probe_with_recent_activity_counts_the_idle_timeout_from_then(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, at: str | float
):
    """The time is RFC 3339, or seconds or milliseconds since the epoch."""
    sandbox.bodies = [f'{{"last_activity": {at!r}}}'.replace("'", '"')]
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.last_used_at) == (Status.RUNNING, NOW + 590)
    assert after.due_at == NOW + 590 + IDLE_SECONDS


LONG_AGO = ['"2025-06-15T15:06:39Z"', "1750000000", "1750000000000", "-5", "0", '"0001-01-01T00:00:00Z"', "-1e300"]


@pytest.mark.parametrize("at", LONG_AGO)
async def test_probe_with_activity_before_the_last_use_ends_the_sandbox(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, at: str
):
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert is_ended(await read(store, ID))


@pytest.mark.parametrize("at", ['"2025-06-16T00:00:00+00:00"', "1750030000", "1750030000000"])
async def test_probe_with_clock_hours_ahead_counts_as_used_now(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, at: str
):
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert (await read(store, ID)).last_used_at == clock.now


@pytest.mark.parametrize("at", ['"2025-06-18T00:00:00Z"', '"2999-01-01T00:00:00Z"', "32503680000", "1.75e15", "9e300"])
async def test_probe_with_clock_days_ahead_is_ignored(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, at: str
):
    """A sandbox with a wrong clock would never be idle."""
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert is_ended(await read(store, ID))


async def test_probe_reads_answer_in_pieces_to_its_end(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock
):
    sandbox.bodies = [['{"act', 'ive": ', "true}"]]
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert len(sandbox.requests) == 1
    assert not is_ended(await read(store, ID))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_probe_does_not_follow_redirects(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, status: int
):
    """A redirect would let untrusted code choose what a worker calls."""
    sandbox.bodies, sandbox.location = [status], f"{sandbox.url}/elsewhere"
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert sandbox.requests == ["/v1/activity?of=agent"] * TRIES
    assert is_ended(await read(store, ID))


NO_ANSWERS = [
    500,
    404,
    204,
    302,
    "",
    "no JSON",
    "[]",
    '{"active": 1}',
    '{"active": "true"}',
    '{"last_activity": "x"}',
    "null",
]


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=repr)
async def test_probe_without_usable_answer_tries_three_times_and_ends_the_sandbox(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, answer: str | int
):
    sandbox.bodies = [answer]
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert len(sandbox.requests) == TRIES == 3
    assert is_ended(await read(store, ID))


@pytest.mark.parametrize("key", ["active", "last_activity", "more"])
async def test_probe_with_deeply_nested_answer_ends_the_sandbox(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, key: str
):
    depth = (MAX_BYTES - 100) // 2
    sandbox.bodies = [f'{{"active": true, "{key}": {"[" * depth}{"]" * depth}}}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert is_ended(await read(store, ID))


async def test_probe_uses_the_third_answer(probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock):
    sandbox.bodies = [503, "x", '{"active": true}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert len(sandbox.requests) == 3
    assert not is_ended(await read(store, ID))


async def test_probe_without_connection_ends_the_sandbox(probe: ActivityProbe, store: Store, clock: Clock):
    await run_probe(probe, await put_idle(store, clock, f"http://127.0.0.1:{free_port()}"))
    assert is_ended(await read(store, ID))


async def test_probe_limits_each_try(sandbox: ProbedSandbox, store: Store, clock: Clock):
    sandbox.meanwhile = lambda: asyncio.sleep(2)
    async with open_probe(store, try_seconds=0.05) as probe:
        await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert len(sandbox.requests) == 3
    assert is_ended(await read(store, ID))


def test_probe_tries_fit_into_the_time_of_a_job():
    assert TRIES * TRY_SECONDS + (TRIES - 1) * PAUSE_SECONDS < PROBE_SECONDS


async def test_probe_reads_no_more_than_its_limit(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock
):
    sandbox.bodies = ['{"active": true, "padding": "' + "x" * 10**6 + '"}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    assert is_ended(await read(store, ID))


# Changes during the probe


async def test_probe_of_sandbox_used_meanwhile_keeps_it(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock
):
    async def use() -> None:
        await store.update(ID, lambda record: Update(touched(record, clock.now), silent=True))

    sandbox.bodies, sandbox.meanwhile = ['{"active": false}'], use
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.probing_until, after.due_at) == (Status.RUNNING, None, clock.now + IDLE_SECONDS)


async def test_probe_of_sandbox_deleted_meanwhile_changes_nothing(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, valkey: ArqRedis
):
    async def delete() -> None:
        await store.update(ID, terminating)

    sandbox.bodies, sandbox.meanwhile = ['{"active": true}'], delete
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.expired_at) == (Status.TERMINATING, None)
    assert await queued(valkey) == []


async def test_probe_of_replaced_incarnation_leaves_the_next_one_alone(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock
):
    successor = replace(record_of(ID, generation=2, idle_timeout=IDLE_SECONDS), token="00000002")

    async def replace_record() -> None:
        await put(store, successor)

    sandbox.bodies, sandbox.meanwhile = ['{"active": true}'], replace_record
    await run_probe(probe, await put_idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.generation, after.revision, after.last_used_at) == (2, 1, successor.last_used_at)


async def test_probe_of_active_sandbox_past_its_lifetime_ends_it(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock
):
    sandbox.bodies = ['{"active": true}']
    await run_probe(probe, await put_idle(store, clock, sandbox.url, lifetime=IDLE_SECONDS))
    after = await read(store, ID)
    assert (is_ended(after), after.expired_by) == (True, ExpiryCause.LIFETIME)


@pytest.mark.parametrize("change", ["another incarnation", "another attempt", "no probe", "deleted"])
async def test_probe_of_changed_record_sends_no_request(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, change: str
):
    record = await put_idle(store, clock, sandbox.url)
    if change == "no probe":
        record = await put(store, replace(record, probing_until=None))
    elif change == "deleted":
        await remove(store, ID)
    before = await store.get(ID)
    late = {
        "another incarnation": replace(record, generation=2),
        "another attempt": replace(record, attempt=record.attempt - 1),
    }
    await run_probe(probe, late.get(change, record))
    assert sandbox.requests == []
    assert await store.get(ID) == before


async def test_probe_twice_at_once_ends_the_sandbox_once(
    probe: ActivityProbe, sandbox: ProbedSandbox, store: Store, clock: Clock, valkey: ArqRedis
):
    record = await put_idle(store, clock, sandbox.url)
    await asyncio.gather(run_probe(probe, record), run_probe(probe, record))
    assert len(await queued(valkey)) == 1


@given(st.floats(0, 2e9), st.integers(0, 2000), st.integers(0, 2000))
def test_apply_activity_never_ends_a_sandbox_early(last: float, idle_timeout: int, lifetime: int):
    policy = ExpiryPolicy(float(idle_timeout), float(lifetime))
    record = probing(record_of(ID, idle_timeout=policy.idle_timeout, lifetime=policy.lifetime), NOW + 1060)
    now = NOW + 1000
    update = apply_activity(record, min(last, now), now)
    assert update is not None
    assert update.record is not None
    is_over = record.expiry is not None and record.expiry.at <= now
    if not is_over:
        assert update.record.is_active
    if not update.record.is_active:
        assert is_over
        assert len(update.jobs) == 1


# Hostile sandboxes


@asynccontextmanager
async def hostile_server(answer: bytes, *, endless: bool) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve `answer` to every connection, again and again if `endless`. Yields the URL and the bytes sent to each."""
    sent: list[int] = []

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(0)
        number = len(sent) - 1
        with suppress(ConnectionError):
            while True:
                writer.write(answer)
                await writer.drain()
                sent[number] += len(answer)
                if not endless:
                    break
            await asyncio.sleep(3600)

    server = await asyncio.start_server(respond, "127.0.0.1", port := free_port())
    try:
        yield f"http://127.0.0.1:{port}", sent
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 4096,
        b"\x00" * 4096,
    ],
    ids=["interim answers", "headers", "body", "no HTTP"],
)
async def test_probe_of_endless_answer_reads_a_bounded_amount_and_ends_the_sandbox(
    store: Store, clock: Clock, answer: bytes
):
    async with hostile_server(answer, endless=True) as (url, sent), open_probe(store) as probe:
        await run_probe(probe, await put_idle(store, clock, url))
        assert len(sent) == TRIES
        assert max(sent) < 100 * MAX_BYTES  # buffers of the kernel included
    assert is_ended(await read(store, ID))


async def test_probes_of_silent_sandboxes_hold_no_job_and_are_limited(store: Store, clock: Clock):
    """A job begins the probe and ends. Others of this worker go on."""
    async with hostile_server(b"", endless=False) as (url, _), open_probe(store, try_seconds=3600.0) as probe:
        record = await put_idle(store, clock, url)
        for _ in range(MAX_PROBES):
            probe.start(record.id, record.incarnation, record.attempt)
        with pytest.raises(TooManyProbes):
            probe.start(record.id, record.incarnation, record.attempt)
    assert (await read(store, ID)).is_active, "a probe that is cancelled ends no sandbox"


async def test_tries_of_a_closed_port_are_spread(store: Store, clock: Clock):
    """A sandbox that restarts answers again within some seconds."""
    assert (TRIES - 1) * PAUSE_SECONDS >= 10
    loop = asyncio.get_running_loop()
    async with open_probe(store, pause_seconds=0.05) as probe:
        started = loop.time()
        await run_probe(probe, await put_idle(store, clock, f"http://127.0.0.1:{free_port()}"))
        assert loop.time() - started >= (TRIES - 1) * 0.05
    assert is_ended(await read(store, ID))
