"""The only caller of Kubernetes. The client library gives configuration, TLS, credentials and the connection pool.

Requests and answers are our own structs (`worker.manifests.kinds`, `worker.seen`): the library's models cost
milliseconds each. Every call has a timeout, and every failure is a `KubernetesError`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import takewhile
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from shared import metrics
from worker import retries, seen
from worker.kubernetes_errors import (
    NO_ANSWER,
    NOT_KUBERNETES,
    TIMED_OUT,
    AlreadyExists,
    Expired,
    KubernetesError,
    NamespaceMissing,
)
from worker.kubernetes_library import ApiClient, Configuration
from worker.manifests import kinds
from worker.manifests.labels import SANDBOX_ID, SELECTOR
from worker.seen import Kind

PAGE = "500"
"""Objects a list call returns at most, as kubectl has it."""
QUICK_TRIES = 3
"""Of one call, before its job is put off: one in a few that fails is a server that restarts, or a broken connection."""
WATCH_SECONDS = 10
"""A watch is asked to end after this long, so that one which is silent for longer is known to be dead."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 5

LINE_BYTES = 2 * 1024 * 1024
"""One line of a watch has a whole object, of which etcd holds none over 1.5 MiB."""

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_failure = msgspec.json.Decoder(seen.Failure).decode


def _reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Decodes one kind of answer; what is none, as of a proxy that answers in its place, is no answer."""
    decode = msgspec.json.Decoder(kind).decode

    def read(raw: bytes | msgspec.Raw) -> T:
        try:
            return decode(raw)
        except msgspec.DecodeError as error:
            raise KubernetesError(NO_ANSWER, NOT_KUBERNETES, f"an answer that is not Kubernetes': {error}") from error

    return read


_frame = _reader(seen.Frame)
_pod = _reader(seen.Pod)
_service = _reader(seen.Service)


class Change(NamedTuple, Generic[Kind]):
    """One line of a watch; a BOOKMARK's object has a resourceVersion and nothing else."""

    type: str
    object: Kind


class Listed(NamedTuple, Generic[Kind]):
    """All there are, as they were at `resource_version`."""

    items: list[Kind]
    resource_version: str


class Resource(NamedTuple, Generic[Kind]):
    """One kind of objects that is listed and watched, those of ours only."""

    name: str
    query: Mapping[str, str]
    page: Callable[[bytes], seen.Page[Kind]]
    read: Callable[[msgspec.Raw], Kind]


_OURS = {"labelSelector": SELECTOR}
PODS = Resource("pods", _OURS, _reader(seen.Page[seen.Pod]), _pod)
SERVICES = Resource("services", _OURS, _reader(seen.Page[seen.Service]), _service)
HAPPENINGS = Resource(
    "events",
    {"fieldSelector": "involvedObject.kind=Pod"},  # they have no labels
    _reader(seen.Page[seen.Happening]),
    _reader(seen.Happening),
)


class Cluster:
    """One cluster's Pods and Services in one namespace. Close it, or use it as an async context manager."""

    def __init__(self, configuration: Configuration, namespace: str, timeout: float) -> None:
        self._client = ApiClient(configuration)
        self._session = _session(self._client)
        self._configuration = configuration
        self._proxy = configuration.proxy or _proxy_for(configuration.host)
        self._namespace = namespace
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._base = f"{configuration.host}/api/v1/namespaces/{namespace}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()
        await self._client.close()

    async def create_pod(self, pod: kinds.Pod) -> seen.Pod:
        """Raises AlreadyExists, NamespaceMissing."""
        return _pod(await self._create("pods", _encode(pod)))

    async def create_service(self, service: kinds.Service) -> seen.Service:
        """The answer holds the node port. Raises AlreadyExists, NamespaceMissing."""
        return _service(await self._create("services", _encode(service)))

    async def create_namespace(self) -> None:
        """Forgives that it is there already."""
        namespace = kinds.Namespace(api_version="v1", kind="Namespace", metadata={"name": self._namespace})
        try:
            await self._call("POST", f"{self._configuration.host}/api/v1/namespaces", body=_encode(namespace))
        except KubernetesError as error:
            if error.http_status != 409:  # noqa: PLR2004 - Conflict: made by somebody else meanwhile
                raise

    async def get_pod(self, name: str) -> seen.Pod | None:
        raw = await self._get(f"{self._base}/pods/{name}")
        return _pod(raw) if raw else None

    async def get_service(self, name: str) -> seen.Service | None:
        raw = await self._get(f"{self._base}/services/{name}")
        return _service(raw) if raw else None

    async def delete_pod(self, name: str, uid: str) -> bool:
        """Ask for the end of the Pod with this uid. False: it is not there any more."""
        return await self._delete(f"{self._base}/pods/{name}", uid)

    async def delete_service(self, name: str, uid: str) -> bool:
        return await self._delete(f"{self._base}/services/{name}", uid)

    async def list_all(self, resource: Resource[Kind]) -> Listed[Kind]:
        """Page by page, all of one moment. Raises Expired when that took longer than the server keeps it."""
        found: list[Kind] = []
        query = {**resource.query, "limit": PAGE}
        while True:
            page = resource.page(await self._call("GET", f"{self._base}/{resource.name}", query=query))
            found += page.items
            if not page.metadata.continue_:
                return Listed(found, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def pods_of(self, sandbox_id: str) -> list[seen.Pod]:
        """Of all its lives."""
        of_id = PODS._replace(query={"labelSelector": f"{SELECTOR},{SANDBOX_ID}={sandbox_id}"})
        return (await self.list_all(of_id)).items

    async def version(self, resource: Resource[Kind]) -> str:
        """The resourceVersion of now."""
        raw = await self._call("GET", f"{self._base}/{resource.name}", query={**resource.query, "limit": "1"})
        return resource.page(raw).metadata.resource_version

    async def watch(self, resource: Resource[Kind], resource_version: str) -> AsyncGenerator[list[Change[Kind]], None]:
        """What happens after `resource_version`, until the server ends the stream, as it regularly does.

        What has come by the time it is asked for is one list, never an empty one.
        Raises Expired when that version is too old: it comes as an event of a stream that began well.
        """
        query = {
            **resource.query,
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.total, sock_read=WATCH_SILENCE_SECONDS)
        url = f"{self._base}/{resource.name}"
        async with self._request("GET", url, query=query, timeout=timeout) as response:
            async for lines in _lines(response.content):
                frames = [_frame(line) for line in lines]
                good = list(takewhile(lambda frame: frame.type != "ERROR", frames))
                if good:
                    yield [Change(frame.type, resource.read(frame.object)) for frame in good]
                if len(good) < len(frames):
                    raise _error(_failure(frames[len(good)].object), None)

    async def _create(self, resource: str, body: bytes) -> bytes:
        try:
            return await self._call("POST", f"{self._base}/{resource}", body=body)
        except KubernetesError as error:
            specific = {"AlreadyExists": AlreadyExists, "NotFound": NamespaceMissing}.get(error.reason)
            if specific is None:
                raise
            raise specific(error.http_status, error.reason, error.message) from error

    async def _get(self, url: str) -> bytes | None:
        try:
            return await self._call("GET", url)
        except KubernetesError as error:
            if error.http_status != 404:  # noqa: PLR2004 - Not Found
                raise
            return None

    async def _delete(self, url: str, uid: str) -> bool:
        """The uid is a precondition: when it fails, the name is another object's by now, hence ours is gone."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", url, body=_encode(options))
        except KubernetesError as error:
            if error.http_status == 404 or "UID in the precondition" in error.message:  # noqa: PLR2004 - Not Found
                return False
            raise
        return True

    async def _call(
        self, method: str, url: str, *, body: bytes | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        """Tried again at once when it fails by a blip; which is safe: each of our calls finds what it has done."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self._request(method, url, body=body, query=query, timeout=self._timeout) as response:
                    return await response.read()
            except KubernetesError as error:
                if tries == QUICK_TRIES or not retries.is_blip(error):
                    raise
            await asyncio.sleep(retries.delay(tries) / 4)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        *,
        timeout: aiohttp.ClientTimeout,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        call = _Call(method, url, query)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                params=query,
                headers=await self._headers(),
                timeout=timeout,
                proxy=self._proxy,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                call.answered(response.status)
                if response.status >= 400:  # noqa: PLR2004 - the first of HTTP's errors
                    raise _error(await _read_failure(response), response.headers.get("Retry-After"))
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


def _session(client: ApiClient) -> aiohttp.ClientSession:
    """On the library's connection pool, with its TLS context. Its own session would look for a proxy in the environment
    and for a `.netrc`, in a thread, at each request, and read the cookies of each answer."""
    pool: aiohttp.BaseConnector | None = client.rest_client.pool_manager.connector
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=pool, connector_owner=False, cookie_jar=jar, read_bufsize=LINE_BYTES)


def _proxy_for(server: str | None) -> str | None:
    """What the environment (`HTTPS_PROXY`, `NO_PROXY` and their like) says of this server."""
    url = urlsplit(server or "")
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


class _Call:
    """One call for the metrics: counted once, with the first thing that is known of its outcome."""

    def __init__(self, method: str, url: str, query: Mapping[str, str] | None) -> None:
        parts = url.partition("/namespaces")[2].split("/")  # "", namespace, resource, name
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


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
    """Whole ones, as many as are there; the last may lack its end."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


async def _read_failure(response: aiohttp.ClientResponse) -> seen.Failure:
    """Kubernetes' own Status or, from a proxy before it, whatever text came."""
    raw = await response.read()
    try:
        failure = _failure(raw)
    except msgspec.DecodeError:
        failure = seen.Failure(message=raw[:200].decode(errors="replace"))
    return msgspec.structs.replace(failure, code=response.status)


def _error(failure: seen.Failure, retry_after: str | None) -> KubernetesError:
    kind = Expired if failure.code == 410 else KubernetesError  # noqa: PLR2004 - Gone
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(failure.code, failure.reason, failure.message, seconds)
