"""Asks an idle sandbox whether it is busy after all, and ends it if not."""

import contextlib
from datetime import datetime
from typing import Annotated

import aiohttp
import msgspec
import structlog
from msgspec import Meta

from shared.queue.job import Job, JobKind
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import expired, next_attempt, touched
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Update

log = structlog.get_logger()

TRIES = 3
TRY_SECONDS = 3.0
MAX_BYTES = 64 * 1024
_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, ValueError, RecursionError)


MILLISECONDS = 1e11
"""A number as large as this counts them since the epoch: as seconds it is 3,000 years from now, as these it is 1973."""
MAX_CLOCK_AHEAD_SECONDS = 86400.0
"""So far may a sandbox' clock be ahead, which tells its zone's time as ours, say. Further is no time to go by."""


class Activity(msgspec.Struct, frozen=True):
    """What a sandbox answers: whether it is busy, or when it last was (RFC 3339, or a number of seconds or milliseconds
    since the epoch)."""

    active: bool = False
    last_activity: Annotated[datetime, Meta(tz=True)] | float | None = None

    def last(self, now: float) -> float:
        """Its last activity, seconds since the epoch, not in the future; 0: it says nothing of the kind."""
        if self.active:
            return now
        at = _seconds(self.last_activity)
        return min(at, now) if at <= now + MAX_CLOCK_AHEAD_SECONDS else 0.0


def _seconds(at: datetime | float | None) -> float:
    """Since the epoch."""
    if isinstance(at, datetime):
        return at.timestamp()
    at = at or 0.0
    return at / 1000 if at >= MILLISECONDS else at


_decode = msgspec.json.Decoder(Activity).decode


class ActivityProbe:
    """Whoever opens it closes it."""

    def __init__(self, store: Store, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._store = store
        self._path = settings.sandbox_activity_path
        self._session = session

    async def run(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """End this life, unless it was busy lately, or somebody has used it meanwhile. StoreUnavailable."""
        record = await self._store.get(sandbox_id)
        if not _is_asked(record, incarnation, attempt) or record is None:
            return
        last = await self._last_activity(record.url)

        def mutate(current: Sandbox) -> Update | None:
            return (
                apply_activity(current, last, self._store.now()) if _is_asked(current, incarnation, attempt) else None
            )

        outcome = await self._store.update_cached(record, mutate)
        if outcome.written and outcome.record:
            log.info("asked whether it is busy", ended=not outcome.record.is_active)

    async def _last_activity(self, url: str) -> float:
        """Seconds since the epoch; trouble asking counts as not busy."""
        for _ in range(TRIES):
            with contextlib.suppress(*_TROUBLE):
                timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
                address = url + self._path
                # Not wherever else a sandbox, which runs what nobody has read, sends us.
                async with self._session.get(address, timeout=timeout, allow_redirects=False) as response:
                    if response.status == 200:  # noqa: PLR2004 - OK
                        return _decode(await _body(response)).last(self._store.now())
        return 0.0


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of it, in however many pieces it comes; what is too long for an answer is cut, and then none."""
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            break
    return body


def apply_activity(record: Sandbox, last_activity: float, now: float) -> Update:
    """What becomes of a record that was asked. Pure."""
    record = msgspec.structs.replace(record, probing_until=None)
    busy = touched(record, last_activity) if last_activity > record.last_used_at else record
    by = busy.expired_by_now(now)
    if by is None:
        return Update(busy)
    ending = next_attempt(expired(busy, by, now))
    return Update(ending, (Job.of(JobKind.TERMINATE, ending),))


def _is_asked(record: Sandbox | None, incarnation: str, attempt: int) -> bool:
    return (
        record is not None
        and record.incarnation == incarnation
        and record.attempt == attempt
        and record.probing_until is not None
    )
