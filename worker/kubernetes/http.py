"""HTTP to the Kubernetes API server. No other module of the worker sends requests to the API server.

The client library supplies TLS, credentials and the connection pool. Every call has a timeout, and every failure is a
`KubernetesError`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
import structlog

from shared import metrics
from worker.kubernetes import objects, retry
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, Expired, KubernetesError
from worker.kubernetes.lazy_import import ApiClient, Configuration

MAX_TRIES = 3
"""Tries of one call before its job is retried later. A restart of the API server, or a lost connection, fails only one
or two."""
LINE_BYTES = 2 * 1024 * 1024
"""Maximum length of a line of a watch. A line holds a whole object, and etcd limits an object to 1.5 MiB."""

log = structlog.get_logger()

Query = Mapping[str, str]
_decode_status = msgspec.json.Decoder(objects.ApiStatus).decode


class KubernetesHTTP:
    """A session with one API server, whose URL is `host`. Paths begin with a slash. The owner closes the session."""

    def __init__(self, configuration: Configuration, timeout: float) -> None:
        self._client = ApiClient(configuration)
        self._session = _session(self._client)
        self._configuration = configuration
        self._proxy = configuration.proxy or _proxy_for(configuration.host)
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self.host = str(configuration.host)

    async def close(self) -> None:
        await self._session.close()
        await self._client.close()

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
        """Send a request once. The answer can be read inside the context.

        Raises:
            KubernetesError: the call failed.
        """
        call = _CallMetrics(method, path, query)
        try:
            async with self._session.request(
                method,
                f"{self.host}{path}",
                data=body,
                params=query,
                headers=await self._headers(),
                timeout=timeout or self._timeout,
                proxy=self._proxy,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                call.finish(response.status)
                if response.status >= 400:  # noqa: PLR2004 - errors begin here
                    raise to_error(await _read_status(response), response.headers.get("Retry-After"))
                yield response
        except TimeoutError as error:
            call.finish(NO_ANSWER)
            raise KubernetesError(NO_ANSWER, TIMED_OUT, "the API server did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            call.finish(NO_ANSWER)
            raise KubernetesError(NO_ANSWER, type(error).__name__, str(error)) from error

    async def _headers(self) -> dict[str, str]:
        """Return the headers with the current token. The library's hook reads a rotated token."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        token = (await self._configuration.auth_settings()).get("BearerToken")
        if token and token["value"]:
            headers["Authorization"] = token["value"]
        return headers


def to_error(status: objects.ApiStatus, retry_after: str | None = None) -> KubernetesError:
    kind = Expired if status.code == 410 else KubernetesError  # noqa: PLR2004 - Gone
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(status.code, status.reason, status.message, seconds)


async def _read_status(response: aiohttp.ClientResponse) -> objects.ApiStatus:
    """Return Kubernetes' Status of an error. If a proxy answered, its text becomes the message."""
    raw = await response.read()
    try:
        status = _decode_status(raw)
    except msgspec.DecodeError:
        status = objects.ApiStatus(message=raw[:200].decode(errors="replace"))
    return msgspec.structs.replace(status, code=response.status)


def _session(client: ApiClient) -> aiohttp.ClientSession:
    """Open a session on the library's connection pool, which has its TLS context.

    The library's own session would read the environment's proxy and `.netrc` in a thread at each request, and parse
    the cookies of each answer.
    """
    pool: aiohttp.BaseConnector | None = client.rest_client.pool_manager.connector
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=pool, connector_owner=False, cookie_jar=jar, read_bufsize=LINE_BYTES)


def _proxy_for(server: str | None) -> str | None:
    """Return the proxy of the environment (`HTTPS_PROXY`, `NO_PROXY` and others) for this server.

    Aiohttp requires that the proxy itself is reached over plain HTTP.
    """
    url = urlsplit(server or "")
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    if proxy and not proxy.startswith("http:"):
        log.warning("proxy ignored: its URL does not begin with http:", proxy=urlsplit(proxy).hostname)
        return None
    return proxy


class _CallMetrics:
    """Metrics of one call, counted once: at its status line or its failure, whichever is first."""

    def __init__(self, method: str, path: str, query: Query | None) -> None:
        parts = path.partition("/namespaces")[2].split("/")  # "", namespace, resource, name
        self._resource = parts[2] if len(parts) > 2 else "namespaces"  # noqa: PLR2004 - as above
        has_name = len(parts) > 3  # noqa: PLR2004 - as above
        get_verb = "watch" if query and "watch" in query else "get" if has_name else "list"
        self._verb = {"POST": "create", "DELETE": "delete"}.get(method, get_verb)
        self._started: float | None = time.perf_counter()

    def finish(self, status: int) -> None:
        if self._started is None:
            return
        metrics.KUBERNETES.labels(self._verb, self._resource, str(status or "none")).inc()
        metrics.KUBERNETES_SECONDS.labels(self._verb, self._resource).observe(time.perf_counter() - self._started)
        self._started = None
