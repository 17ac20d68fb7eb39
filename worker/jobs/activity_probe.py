"""The activity probe: asks an idle sandbox whether it is busy, and ends the sandbox if not.

A sandbox runs untrusted code, and may never answer. So probes run beside the jobs, and hold none of the slots for jobs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from shared.errors import StoreUnavailable
from shared.queue.job import Job, JobKind
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import expired, next_attempt, touched
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Update
from worker.jobs.bounded_http import bounded_get

log = structlog.get_logger()

TRIES = 3
TRY_SECONDS = 3.0
PAUSE_SECONDS = 5.0
"""Pause between two tries. All tries take longer than one period of the liveness probe: a sandbox may be restarting."""
MAX_BYTES = 64 * 1024
"""Size of an answer with its headers and interim answers."""
MAX_PROBES = 100
"""Probes of one worker at once. Each holds one connection. More of them are delayed."""
_FAILURES = (TimeoutError, OSError, msgspec.MsgspecError, ValueError, RecursionError)

MIN_MILLISECONDS = 1e11
"""A number as large as this counts milliseconds since the epoch: as seconds, the year would be 5138."""
MAX_CLOCK_AHEAD_SECONDS = 86400.0
"""Tolerated clock skew of a sandbox, which may send its local time as UTC. Later times are ignored."""


class Activity(msgspec.Struct, frozen=True):
    """A sandbox's answer. `last_activity` is RFC 3339, or a number of seconds or milliseconds since the epoch."""

    active: bool = False
    last_activity: Annotated[datetime, Meta(tz=True)] | float | None = None

    def last(self, now: float) -> float:
        """Return the time of the last activity, seconds since the epoch and not after `now`; 0 if unknown."""
        if self.active:
            return now
        last = _seconds(self.last_activity)
        return min(last, now) if last <= now + MAX_CLOCK_AHEAD_SECONDS else 0.0


def _seconds(time: datetime | float | None) -> float:
    """Return seconds since the epoch."""
    if isinstance(time, datetime):
        return time.timestamp()
    number = time or 0.0
    return number / 1000 if number >= MIN_MILLISECONDS else number


_decode = msgspec.json.Decoder(Activity).decode


class TooManyProbes(Exception):
    """Raised if a worker runs MAX_PROBES probes. Try again soon."""


class ActivityProbe:
    """Probes idle sandboxes while its `running` context is open."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        try_seconds: float = TRY_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._store = store
        self._path = settings.sandbox_activity_path
        self._try_seconds = try_seconds
        self._pause_seconds = pause_seconds
        self._probes: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Cancel the probes at the end. The sweep enqueues them again: each record says when its probe is overdue."""
        try:
            yield
        finally:
            for probe in self._probes:
                probe.cancel()
            await asyncio.gather(*self._probes, return_exceptions=True)

    def start(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """Begin a probe, and return at once.

        Raises:
            TooManyProbes: try again soon.
        """
        if len(self._probes) >= MAX_PROBES:
            raise TooManyProbes
        probe = asyncio.create_task(self._run_and_log(sandbox_id, incarnation, attempt))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _run_and_log(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        try:
            await self.run(sandbox_id, incarnation, attempt)
        except StoreUnavailable as error:
            log.warning("activity probe failed; the sweep repeats it", error=str(error))

    async def run(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """Probe the sandbox and end it, unless it was active recently or was used meanwhile.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        record = await self._store.get(sandbox_id)
        if record is None or record.incarnation != incarnation or not _is_probed(record, attempt):
            return
        last_activity = await self._last_activity(record.url)

        def mutate(current: Sandbox) -> Update | None:
            return apply_activity(current, last_activity, self._store.now()) if _is_probed(current, attempt) else None

        result = await self._store.update_cached(record, mutate)
        if result.written and result.record:
            log.info("activity probed", expired=not result.record.is_active)

    async def _last_activity(self, url: str) -> float:
        """Return the time of the last activity, seconds since the epoch; 0 if the sandbox gives no answer."""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(self._pause_seconds)
            with contextlib.suppress(*_FAILURES):
                response = await bounded_get(url + self._path, seconds=self._try_seconds, max_bytes=MAX_BYTES)
                if response.status == 200:  # noqa: PLR2004 - OK
                    return _decode(response.body).last(self._store.now())
        return 0.0


def apply_activity(record: Sandbox, last_activity: float, now: float) -> Update:
    """Return the update of a probed record: the sandbox stays, or it expires with a terminate job. Pure."""
    record = msgspec.structs.replace(record, probing_until=None)
    used = touched(record, last_activity) if last_activity > record.last_used_at else record
    cause = used.expired_by_now(now)
    if cause is None:
        return Update(used)
    ended = next_attempt(expired(used, cause, now))
    return Update(ended, (Job.of(JobKind.TERMINATE, ended),))


def _is_probed(record: Sandbox, attempt: int) -> bool:
    """Return True if the probe with this attempt is the record's current job."""
    return record.attempt == attempt and record.probing_until is not None
