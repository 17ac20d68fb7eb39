"""Keeps the credentials of one client current: tokens and certificates are renewed while requests go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import NamedTuple

import structlog
from multidict import CIMultiDict

from worker.kubernetes.credentials.access import Access, CredentialsError
from worker.kubernetes.credentials.tls import tls_context

log = structlog.get_logger()

REFRESH_SECONDS = 60.0
"""Maximum time between two reads of all files. client-go reads token files as often. Plugins' tokens live minutes."""
MIN_REFRESH_SECONDS = 5.0
"""Minimum time between two reads. Limits how often refused requests, or credentials of a few seconds, run a plugin."""


class Current(NamedTuple):
    """The credentials of a request. `headers` can have several values of one name."""

    headers: CIMultiDict[str]
    tls: SSLContext


class Credentials:
    """Reads access again at the latest every REFRESH_SECONDS, before it expires, and after a refusal.

    If a read fails, the old credentials stay: they may still be valid.
    """

    def __init__(
        self, read: Callable[[bool], Awaitable[Access]], first: Access, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._access = first
        self._current = Current(CIMultiDict(first.headers), tls_context(first))
        self._clock = clock
        self._lock = asyncio.Lock()
        self._refresh_at = clock() + _interval(first)
        self._renewable_at = clock()

    async def current(self) -> Current:
        """Return the credentials for a request. If a read is due, one caller waits for it, the others use the old."""
        if self._clock() >= self._refresh_at and not self._lock.locked():
            async with self._lock:
                await self._refresh(renew=False)
        return self._current

    async def renew(self, refused: Current) -> None:
        """Read access at once, because the API server has refused these credentials. Callers share one read."""
        async with self._lock:
            if self._current is refused and self._clock() >= self._renewable_at:
                self._renewable_at = self._clock() + MIN_REFRESH_SECONDS
                await self._refresh(renew=True)

    async def _refresh(self, *, renew: bool) -> None:
        self._refresh_at = self._clock() + REFRESH_SECONDS
        try:
            access = await self._read(renew)
            if access.server != self._access.server:
                raise CredentialsError(f"now for {access.server}, which is another server. Restart the worker")  # noqa: TRY301
            await self._use(access)
        except Exception as error:  # noqa: BLE001 - whatever fails here, the old credentials may still be valid
            log.warning("kubernetes credentials cannot be read again; using the old ones", error=str(error))
        else:
            self._refresh_at = self._clock() + _interval(access)

    async def _use(self, access: Access) -> None:
        """Use these credentials from now on. An equal context stays, because connections are pooled by context."""
        tls = self._current.tls
        if _tls_facts(access) != _tls_facts(self._access):
            tls = await asyncio.to_thread(tls_context, access)
        if tls is not self._current.tls or access.headers != self._access.headers:
            self._current = Current(CIMultiDict(access.headers), tls)
        self._access = access


def _tls_facts(access: Access) -> tuple[object, ...]:
    return access.authority, access.certificate, access.key, access.verify_tls


def _interval(access: Access) -> float:
    if access.valid_seconds is None:
        return REFRESH_SECONDS
    return min(REFRESH_SECONDS, max(MIN_REFRESH_SECONDS, access.valid_seconds))
