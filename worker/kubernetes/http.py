"""HTTP to the Kubernetes API server. No other module of the worker sends requests to the API server.

Every call has a timeout, and every failure is a `KubernetesError`, whichever exception aiohttp, ssl or asyncio raise.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import msgspec

from shared import metrics
from worker.kubernetes import objects, retry
from worker.kubernetes.config import ClusterConfig
from worker.kubernetes.credentials.renewal import Current
from worker.kubernetes.denials import Denials
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, Expired, KubernetesError

MAX_TRIES = 3
"""Tries of one call before its job is retried later. A restart of the API server, or a lost connection, fails only one
or two."""
LINE_BYTES = 2 * 1024 * 1024
"""Maximum length of a line of a watch. A line holds a whole object, and etcd limits an object to 1.5 MiB."""

_UNAUTHORIZED = 401
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}

Query = Mapping[str, str]
_decode_status = msgspec.json.Decoder(objects.ApiStatus).decode


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes | None
    query: Query | None
    timeout: aiohttp.ClientTimeout


class KubernetesHTTP:
    """A session with one API server, whose URL is `host`. Paths begin with a slash. The owner closes the session.

    `clock` measures how long the API server refuses the credentials or a right.
    """

    def __init__(self, config: ClusterConfig, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=LINE_BYTES,
        )
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._denials = Denials(clock)
        self.host = config.host

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, *, body: bytes | None = None, query: Query | None = None) -> bytes:
        """Return the body of the answer. A transient error is retried within a second, MAX_TRIES times in all.

        Retries are safe even if a lost try had its effect: a create then fails with AlreadyExists, and a delete names
        the uid.

        Raises:
            KubernetesError: the call failed.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self.request(method, path, body=body, query=query) as response:
                    return await response.read()
            except KubernetesError as error:
                if tries == MAX_TRIES or not retry.is_transient(error):
                    raise
            await asyncio.sleep(retry.backoff_seconds(tries) / 4)

    async def lines(self, path: str, *, query: Query, silence: float) -> AsyncGenerator[list[bytes], None]:
        """Yield the complete lines of a stream, those that arrived together in one list. The last may lack its newline.

        Raises:
            KubernetesError: the call failed, or nothing arrived for `silence` seconds.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.total, sock_read=silence)
        rest = b""
        async with self.request("GET", path, query=query, timeout=timeout) as response:
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
            if rest:
                yield [rest]

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Query | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request. The answer can be read inside the context.

        After a 401, or if TLS fails, the credentials are read again, and the request is repeated once.

        Raises:
            KubernetesError: the call failed.
        """
        request = _Request(method, path, body, query, timeout or self._timeout)
        try:
            async with await self._send_or_renew(request) as response:
                yield response
        except KubernetesError:
            raise
        except TimeoutError as error:
            raise KubernetesError(NO_ANSWER, TIMED_OUT, "the API server did not answer in time") from error
        except Exception as error:
            raise KubernetesError(NO_ANSWER, type(error).__name__, str(error)) from error

    async def _send_or_renew(self, request: _Request) -> aiohttp.ClientResponse:
        credentials = await self._config.credentials.current()
        try:
            return await self._send(request, credentials)
        except Exception as error:
            if not _can_be_renewed(error):
                raise
        await self._config.credentials.renew(credentials)
        return await self._send(request, await self._config.credentials.current())

    async def _send(self, request: _Request, credentials: Current) -> aiohttp.ClientResponse:
        call = _CallMetrics(request)
        headers = credentials.headers.copy()
        headers.update(_JSON)
        try:
            response = await self._session.request(
                request.method,
                f"{self.host}{request.path}",
                data=request.body,
                params=request.query,
                headers=headers,
                timeout=request.timeout,
                proxy=self._config.proxy,
                ssl=credentials.tls,
                server_hostname=self._config.tls_server_name,
            )
        except Exception:
            call.finish(NO_ANSWER)
            raise
        call.finish(response.status)
        if response.status >= 400:  # noqa: PLR2004 - errors begin here
            async with response:
                error = to_error(await _read_status(response), response.headers.get("Retry-After"))
            if retry.is_denied(error):
                error.is_lasting = self._denials.refuse(call.kind)
            elif response.status < 500:  # noqa: PLR2004 - the server itself fails from here on
                self._denials.accept(call.kind)
            raise error
        self._denials.accept(call.kind)
        return response


def _can_be_renewed(error: Exception) -> bool:
    """Return True if other credentials can help: the API server refuses the present ones, or TLS does."""
    if isinstance(error, KubernetesError):
        return error.http_status == _UNAUTHORIZED
    return isinstance(error, aiohttp.ClientSSLError) or isinstance(error.__cause__, ssl.SSLError)


def to_error(status: objects.ApiStatus, retry_after: str | None = None) -> KubernetesError:
    kind = Expired if status.code == 410 else KubernetesError  # noqa: PLR2004 - Gone
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return kind(status.code, status.reason, status.message, seconds)


async def _read_status(response: aiohttp.ClientResponse) -> objects.ApiStatus:
    """Return Kubernetes' Status of an error. If a proxy answered, its text becomes the message."""
    raw = await response.read()
    try:
        status = _decode_status(raw)
    except (ValueError, RecursionError):
        status = objects.ApiStatus(message=raw[:200].decode(errors="replace"))
    return msgspec.structs.replace(status, code=response.status)


class _CallMetrics:
    """Kind and metrics of one call. It is counted at its status line or its failure."""

    def __init__(self, request: _Request) -> None:
        parts = request.path.partition("/namespaces")[2].split("/")  # "", namespace, resource, name
        self._resource = parts[2] if len(parts) > 2 else "namespaces"  # noqa: PLR2004 - as above
        has_name = len(parts) > 3  # noqa: PLR2004 - as above
        get_verb = "watch" if request.query and "watch" in request.query else "get" if has_name else "list"
        self._verb = {"POST": "create", "DELETE": "delete"}.get(request.method, get_verb)
        self._started = time.perf_counter()

    @property
    def kind(self) -> str:
        return f"{self._verb} {self._resource}"

    def finish(self, status: int) -> None:
        metrics.KUBERNETES.labels(self._verb, self._resource, str(status or "none")).inc()
        metrics.KUBERNETES_SECONDS.labels(self._verb, self._resource).observe(time.perf_counter() - self._started)
