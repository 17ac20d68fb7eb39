"""Asking an idle sandbox whether it is busy. It answers over HTTP, on this host."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
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
from tests.worker.conftest import put, queued, read
from worker.jobs import activity_probe
from worker.jobs.activity_probe import MAX_BYTES, TRIES, ActivityProbe, apply_activity

pytestmark = pytest.mark.anyio

ID = "abc"
IDLE_SECONDS = 600.0


@dataclass
class Answers:
    """What the sandbox answers, in turn, the last of it for ever; and on which paths it was asked."""

    url: str = ""
    bodies: list[str | int | list[str]] = field(default_factory=lambda: ["{}"])
    """JSON, or that in pieces, or the status of an error."""
    elsewhere: str = ""
    """Where a redirect goes."""
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        result = self.meanwhile()
        if asyncio.iscoroutine(result):
            await result
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        if isinstance(body, list):
            return await in_pieces(request, body)
        if isinstance(body, str):
            return web.Response(text=body)
        return web.Response(status=body, headers={"Location": self.elsewhere} if self.elsewhere else None)


async def in_pieces(request: web.Request, pieces: list[str]) -> web.StreamResponse:
    """Each when the one before it has been read: whoever asks runs on this loop as well."""
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece.encode())
        for _ in range(20):
            await asyncio.sleep(0)
    return response


@pytest.fixture
async def sandbox() -> AsyncIterator[Answers]:
    answers = Answers()
    app = web.Application()
    app.router.add_get("/{path:.*}", answers.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    answers.url = f"http://127.0.0.1:{port}"
    yield answers
    await runner.cleanup()


@pytest.fixture
async def asking(store: Store) -> AsyncIterator[ActivityProbe]:
    async with aiohttp.ClientSession() as session:
        yield ActivityProbe(store, settings_of(SANDBOX_ACTIVITY_PATH="/v1/activity?of=agent"), session)


async def idle(store: Store, clock: Clock, url: str, **fields: float) -> Sandbox:
    """One whose idle time is over, and that is being asked, as the sweep leaves it."""
    record = record_of(ID, idle_timeout=IDLE_SECONDS, **fields)
    made = provisioned(record, ProvisionedObjects("sandbox-abc", "u", "service", url), now=record.created_at)
    clock.advance(IDLE_SECONDS)
    return await put(store, next_attempt(probing(replace(made, status=Status.RUNNING), clock.now + 60)))


async def ask(asking: ActivityProbe, record: Sandbox) -> None:
    await asking.run(record.id, record.incarnation, record.attempt)


def was_ended(record: Sandbox) -> bool:
    return record.status is Status.TERMINATING


async def test_busy(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, valkey: ArqRedis):
    """One that is active stays, has all its idle time anew, and nobody is at work on it."""
    sandbox.bodies = ['{"active": true}']
    await ask(asking, await idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert sandbox.asked == ["/v1/activity?of=agent"]
    assert (after.status, after.last_used_at, after.probing_until) == (Status.RUNNING, clock.now, None)
    assert after.due_at == clock.now + IDLE_SECONDS
    assert await queued(valkey) == []


@pytest.mark.parametrize("body", ['{"active": false}', "{}", '{"active": false, "last_activity": null, "more": 1}'])
async def test_idle(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, valkey: ArqRedis, body: str):
    """One that is not is ended, with one job, and says why."""
    sandbox.bodies = [body]
    record = await idle(store, clock, sandbox.url)
    await ask(asking, record)
    after = await read(store, ID)
    assert (was_ended(after), after.expired_by, after.expired_at) == (True, ExpiryCause.IDLE, clock.now)
    assert await queued(valkey) == [f"terminate:abc:{record.incarnation}:{record.attempt + 1}"]


LATELY = [
    "2025-06-15T15:16:30Z",
    "2025-06-15T17:16:30+02:00",
    "2025-06-15T15:16:30.000Z",
    1_750_000_590,
    1_750_000_590.0,
    1_750_000_590_000,
    1_750_000_590_000.0,
]


@pytest.mark.parametrize("at", LATELY, ids=str)
async def test_last_activity(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, at: str | float):
    """As a time, or as seconds or milliseconds since the epoch: it has its idle time from then on."""
    sandbox.bodies = [f'{{"last_activity": {at!r}}}'.replace("'", '"')]
    await ask(asking, await idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.last_used_at) == (Status.RUNNING, NOW + 590)
    assert after.due_at == NOW + 590 + IDLE_SECONDS


LONG_AGO = ['"2025-06-15T15:06:39Z"', "1750000000", "1750000000000", "-5", "0", '"0001-01-01T00:00:00Z"', "-1e300"]


@pytest.mark.parametrize("at", LONG_AGO)
async def test_long_ago(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, at: str):
    """No later than its last use, it is no reason to keep it."""
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert was_ended(await read(store, ID))


@pytest.mark.parametrize("at", ['"2025-06-16T00:00:00+00:00"', "1750030000", "1750030000000"])
async def test_a_clock_that_is_ahead(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, at: str):
    """By hours: the sandbox lives no longer than a use now would make it."""
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert (await read(store, ID)).last_used_at == clock.now


@pytest.mark.parametrize("at", ['"2025-06-18T00:00:00Z"', '"2999-01-01T00:00:00Z"', "32503680000", "1.75e15", "9e300"])
async def test_a_time_that_cannot_be(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, at: str):
    """Days and more from now, it tells nothing, or one whose clock is wrong would never be idle."""
    sandbox.bodies = [f'{{"last_activity": {at}}}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert was_ended(await read(store, ID))


async def test_an_answer_in_pieces(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """It is read to its end."""
    sandbox.bodies = [['{"act', 'ive": ', "true}"]]
    await ask(asking, await idle(store, clock, sandbox.url))
    assert len(sandbox.asked) == 1
    assert not was_ended(await read(store, ID))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_sent_elsewhere(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, status: int):
    """Nobody goes there: code that nobody has read would choose whom a worker calls."""
    sandbox.bodies, sandbox.elsewhere = [status], f"{sandbox.url}/elsewhere"
    await ask(asking, await idle(store, clock, sandbox.url))
    assert sandbox.asked == ["/v1/activity?of=agent"] * TRIES
    assert was_ended(await read(store, ID))


TROUBLE = [
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


@pytest.mark.parametrize("trouble", TROUBLE, ids=repr)
async def test_trouble(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, trouble: str | int):
    """What is no answer is asked for three times, and then counts as not busy."""
    sandbox.bodies = [trouble]
    await ask(asking, await idle(store, clock, sandbox.url))
    assert len(sandbox.asked) == TRIES == 3
    assert was_ended(await read(store, ID))


@pytest.mark.parametrize("key", ["active", "last_activity", "more"])
async def test_a_deep_answer(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, key: str):
    """One that is nested as deeply as its length allows is no answer, and no harm."""
    depth = (MAX_BYTES - 100) // 2
    sandbox.bodies = [f'{{"active": true, "{key}": {"[" * depth}{"]" * depth}}}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert was_ended(await read(store, ID))


async def test_trouble_that_passes(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """The third answer counts as the first would."""
    sandbox.bodies = [503, "x", '{"active": true}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert len(sandbox.asked) == 3
    assert not was_ended(await read(store, ID))


async def test_nobody_answers(asking: ActivityProbe, store: Store, clock: Clock):
    """Nor listens."""
    await ask(asking, await idle(store, clock, f"http://127.0.0.1:{free_port()}"))
    assert was_ended(await read(store, ID))


async def test_one_that_hangs(
    asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """It is waited for so long and no longer, each time."""
    monkeypatch.setattr(activity_probe, "TRY_SECONDS", 0.05)
    sandbox.meanwhile = lambda: asyncio.sleep(2)
    await ask(asking, await idle(store, clock, sandbox.url))
    assert len(sandbox.asked) == 3
    assert was_ended(await read(store, ID))


def test_the_tries_fit_into_the_time_to_ask():
    """When nobody has asked by then, another job does: not while the first still may."""
    assert TRIES * activity_probe.TRY_SECONDS < 45


async def test_a_long_answer(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """No more of it is read than an answer may have."""
    sandbox.bodies = ['{"active": true, "padding": "' + "x" * 10**6 + '"}']
    await ask(asking, await idle(store, clock, sandbox.url))
    assert was_ended(await read(store, ID))


# What may have happened meanwhile


async def test_used_meanwhile(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """Somebody used it while it was asked: it stays, whatever it answers."""

    async def use() -> None:
        await store.create_or_update(ID, lambda r: Update(touched(r, clock.now), silent=True) if r else None)

    sandbox.bodies, sandbox.meanwhile = ['{"active": false}'], use
    await ask(asking, await idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.probing_until, after.due_at) == (Status.RUNNING, None, clock.now + IDLE_SECONDS)


async def test_deleted_meanwhile(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, valkey: ArqRedis):
    """What was deleted while it was asked is left to its own job."""

    async def delete() -> None:
        await store.create_or_update(ID, lambda r: Update(terminating(r)) if r else None)

    sandbox.bodies, sandbox.meanwhile = ['{"active": true}'], delete
    await ask(asking, await idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.status, after.expired_at) == (Status.TERMINATING, None)
    assert await queued(valkey) == []


async def test_followed_by_another_life_meanwhile(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """What one life apply_activity says nothing of the next."""
    following = replace(record_of(ID, generation=2, idle_timeout=IDLE_SECONDS), token="00000002")

    async def follow() -> None:
        await put(store, following)

    sandbox.bodies, sandbox.meanwhile = ['{"active": true}'], follow
    await ask(asking, await idle(store, clock, sandbox.url))
    after = await read(store, ID)
    assert (after.generation, after.revision, after.last_used_at) == (2, 1, following.last_used_at)


async def test_its_lifetime_is_over_as_well(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock):
    """However busy."""
    sandbox.bodies = ['{"active": true}']
    await ask(asking, await idle(store, clock, sandbox.url, lifetime=IDLE_SECONDS))
    after = await read(store, ID)
    assert (was_ended(after), after.expired_by) == (True, ExpiryCause.LIFETIME)


@pytest.mark.parametrize("which", ["another life", "another attempt", "not being asked", "gone"])
async def test_a_job_that_comes_late(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, which: str):
    """What is no longer as it was when the job was written is not even asked."""
    record = await idle(store, clock, sandbox.url)
    if which == "not being asked":
        record = await put(store, replace(record, probing_until=None))
    elif which == "gone":
        await store.create_or_update(ID, lambda _: Update(None))
    before = await store.get(ID)
    late = {
        "another life": replace(record, generation=2),
        "another attempt": replace(record, attempt=record.attempt - 1),
    }
    await ask(asking, late.get(which, record))
    assert sandbox.asked == []
    assert await store.get(ID) == before


async def test_asked_twice(asking: ActivityProbe, sandbox: Answers, store: Store, clock: Clock, valkey: ArqRedis):
    """One job that ran twice ends it once."""
    record = await idle(store, clock, sandbox.url)
    await asyncio.gather(ask(asking, record), ask(asking, record))
    assert len(await queued(valkey)) == 1


@given(st.floats(0, 2e9), st.integers(0, 2000), st.integers(0, 2000))
def test_an_answer_never_shortens_a_life(last: float, idle_timeout: int, lifetime: int):
    """It is ended only if its time is over without the answer as well."""
    terms = ExpiryPolicy(float(idle_timeout), float(lifetime))
    record = probing(record_of(ID, idle_timeout=terms.idle_timeout, lifetime=terms.lifetime), NOW + 1060)
    now = NOW + 1000
    change = apply_activity(record, min(last, now), now)
    assert change is not None
    assert change.record is not None
    is_over = record.expiry is not None and record.expiry.at <= now
    if not is_over:
        assert change.record.is_active
    if not change.record.is_active:
        assert is_over
        assert len(change.jobs) == 1
