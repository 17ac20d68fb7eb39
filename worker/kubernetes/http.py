"""The only thing that speaks HTTP to Kubernetes' API server. The client library gives TLS, credentials and the pool.

Every call has a timeout, and every failure is a `KubernetesError`.
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

QUICK_TRIES = 3
"""Of one call, before its job is put off: one in a few that fails is a server that restarts, or a broken connection."""
LINE_BYTES = 2 * 1024 * 1024
"""One line of a watch has a whole object, of which etcd holds none over 1.5 MiB."""

log = structlog.get_logger()

Query = Mapping[str, str]
_failure = msgspec.json.Decoder(objects.ApiStatus).decode


class KubernetesHTTP:
    """`host` is its URL; paths begin with a slash. Close it."""

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
        """The answer. Tried again at once when it fails by a blip; which is safe: each of our calls finds what it has
        done. Raises KubernetesError."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self.request(method, path, body=body, query=query) as response:
                    return await response.read()
            except KubernetesError as error:
                if tries == QUICK_TRIES or not retry.is_transient(error):
                    raise
            await asyncio.sleep(retry.backoff_seconds(tries) / 4)

    async def lines(self, path: str, *, query: Query, silence: float) -> AsyncGenerator[list[bytes], None]:
        """Of a stream: whole ones, as many as have come; the last may lack its end. Raises KubernetesError, also after
        so many seconds of `silence`."""
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
        """One try; its answer while it is entered. Raises KubernetesError."""
        call = _Call(method, path, query)
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
                call.answered(response.status)
                if response.status >= 400:  # noqa: PLR2004 - the first of HTTP's errors
                    raise as_error(await _read_failure(response), response.headers.get("Retry-After"))
                yield response
        except TimeoutError as error:
            call.answered(NO_ANSWER)
            raise KubernetesError(NO_ANSWER, TIMED_OUT, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            call.answered(NO_ANSWER)
            raise KubernetesError(NO_ANSWER, type(error).__name__, str(error)) from error

    async def _headers(self) -> dict[str, str]:
        """With the token in force now: the library's hook reads a rotated one anew."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        token = (await self._configuration.auth_settings()).get("BearerToken")
        if token and token["value"]:
            headers["Authorization"] = token["value"]
        return headers


def as_error(failure: objects.ApiStatus, retry_after: str | None = None) -> KubernetesError:
    kind = Expired if failure.code == 410 else KubernetesError  # noqa: PLR2004 - Gone
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(failure.code, failure.reason, failure.message, seconds)


async def _read_failure(response: aiohttp.ClientResponse) -> objects.ApiStatus:
    """Kubernetes' own Status or, from a proxy before it, whatever text came."""
    raw = await response.read()
    try:
        failure = _failure(raw)
    except msgspec.DecodeError:
        failure = objects.ApiStatus(message=raw[:200].decode(errors="replace"))
    return msgspec.structs.replace(failure, code=response.status)


def _session(client: ApiClient) -> aiohttp.ClientSession:
    """On the library's connection pool, with its TLS context. Its own session would look for a proxy in the environment
    and for a `.netrc`, in a thread, at each request, and read the cookies of each answer."""
    pool: aiohttp.BaseConnector | None = client.rest_client.pool_manager.connector
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=pool, connector_owner=False, cookie_jar=jar, read_bufsize=LINE_BYTES)


def _proxy_for(server: str | None) -> str | None:
    """What the environment (`HTTPS_PROXY`, `NO_PROXY` and their like) says of this server. As aiohttp has it, only of
    proxies that are spoken to in plain HTTP, whatever goes through them."""
    url = urlsplit(server or "")
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    if proxy and not proxy.startswith("http:"):
        log.warning(
            "a proxy of the environment is left out: its URL must begin with http:", proxy=urlsplit(proxy).hostname
        )
        return None
    return proxy


class _Call:
    """One call for the metrics: counted once, with the first thing that is known of its outcome."""

    def __init__(self, method: str, path: str, query: Query | None) -> None:
        parts = path.partition("/namespaces")[2].split("/")  # "", namespace, resource, name
        self._resource = parts[2] if len(parts) > 2 else "namespaces"  # noqa: PLR2004 - as above
        is_one = len(parts) > 3  # noqa: PLR2004 - as above
        read = "watch" if query and "watch" in query else "get" if is_one else "list"
        self._verb = {"POST": "create", "DELETE": "delete"}.get(method, read)
        self._began: float | None = time.perf_counter()

    def answered(self, status: int) -> None:
        if self._began is None:
            return
        metrics.KUBERNETES.labels(self._verb, self._resource, str(status or "none")).inc()
        metrics.KUBERNETES_SECONDS.labels(self._verb, self._resource).observe(time.perf_counter() - self._began)
        self._began = None
