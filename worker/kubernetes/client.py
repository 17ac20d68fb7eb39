"""The worker's calls to Kubernetes: Pods, Services and Events of one namespace.

Requests are `worker.kubernetes.manifest_types`, answers `worker.kubernetes.objects`, because the client library's
models cost milliseconds each. Every failure is a `KubernetesError`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import msgspec

from worker.kubernetes import manifest_types, objects
from worker.kubernetes.errors import NO_ANSWER, NOT_KUBERNETES, AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.http import KubernetesHTTP, to_error
from worker.kubernetes.labels import SANDBOX_ID, SELECTOR
from worker.kubernetes.lazy_import import Configuration
from worker.kubernetes.objects import Kind

PAGE = "500"
"""Maximum number of objects in one answer of a list; the chunk size of kubectl."""
WATCH_SECONDS = 10
"""Time after which the API server ends a watch. A watch that is silent for longer has a dead connection."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 5
"""Maximum silence of a watch before the client gives it up."""

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def _decoder(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Return a function that decodes one type. Text of another shape, such as a proxy's page, counts as no answer."""
    decode = msgspec.json.Decoder(kind).decode

    def decode_or_raise(raw: bytes | msgspec.Raw) -> T:
        try:
            return decode(raw)
        except msgspec.DecodeError as error:
            message = f"the answer is not from Kubernetes: {error}"
            raise KubernetesError(NO_ANSWER, NOT_KUBERNETES, message) from error

    return decode_or_raise


_decode_frame = _decoder(objects.WatchFrame)
_decode_status = _decoder(objects.ApiStatus)
_decode_pod = _decoder(objects.Pod)
_decode_service = _decoder(objects.Service)


class WatchEvent(NamedTuple, Generic[Kind]):
    """Event of a watch. The object of a BOOKMARK has a resourceVersion only."""

    type: str
    object: Kind


class ObjectList(NamedTuple, Generic[Kind]):
    """All objects of a resource at `resource_version`."""

    items: list[Kind]
    resource_version: str


class Resource(NamedTuple, Generic[Kind]):
    """Kind of objects to list and watch. `query` selects those that can belong to a sandbox."""

    name: str
    query: Mapping[str, str]
    decode_page: Callable[[bytes], objects.ListPage[Kind]]
    decode: Callable[[msgspec.Raw], Kind]


_BY_LABEL = {"labelSelector": SELECTOR}
PODS = Resource("pods", _BY_LABEL, _decoder(objects.ListPage[objects.Pod]), _decode_pod)
SERVICES = Resource("services", _BY_LABEL, _decoder(objects.ListPage[objects.Service]), _decode_service)
EVENTS = Resource(
    "events",
    {"fieldSelector": "involvedObject.kind=Pod"},  # Events have no labels
    _decoder(objects.ListPage[objects.Event]),
    _decoder(objects.Event),
)


def _decode_lines(
    resource: Resource[Kind], lines: Sequence[bytes]
) -> tuple[list[WatchEvent[Kind]], KubernetesError | None]:
    """Return the events before the first bad line, and its error. A bad line is an ERROR or cannot be decoded."""
    events: list[WatchEvent[Kind]] = []
    try:
        for line in lines:
            frame = _decode_frame(line)
            if frame.type == "ERROR":
                raise to_error(_decode_status(frame.object))
            events.append(WatchEvent(frame.type, resource.decode(frame.object)))
    except KubernetesError as error:
        return events, error
    return events, None


class KubernetesClient:
    """Client of one cluster for one namespace. Close the client, or use the client as an async context manager."""

    def __init__(self, configuration: Configuration, namespace: str, timeout: float) -> None:
        self._server = KubernetesHTTP(configuration, timeout)
        self._namespace = namespace
        self._base = f"/api/v1/namespaces/{namespace}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._server.close()

    async def create_pod(self, pod: manifest_types.PodManifest) -> objects.Pod:
        """Create a Pod.

        Raises:
            AlreadyExists: a Pod with this name exists.
            NamespaceMissing: the namespace does not exist.
        """
        return _decode_pod(await self._create("pods", _encode(pod)))

    async def create_service(self, service: manifest_types.ServiceManifest) -> objects.Service:
        """Create a Service, and return it with its node port.

        Raises:
            AlreadyExists: a Service with this name exists.
            NamespaceMissing: the namespace does not exist.
        """
        return _decode_service(await self._create("services", _encode(service)))

    async def create_namespace(self) -> None:
        """Create the namespace if it does not exist."""
        namespace = manifest_types.NamespaceManifest(
            api_version="v1", kind="Namespace", metadata={"name": self._namespace}
        )
        try:
            await self._server.call("POST", "/api/v1/namespaces", body=_encode(namespace))
        except KubernetesError as error:
            if error.http_status != 409:  # noqa: PLR2004 - Conflict: the namespace exists
                raise

    async def get_pod(self, name: str) -> objects.Pod | None:
        raw = await self._get(f"{self._base}/pods/{name}")
        return _decode_pod(raw) if raw else None

    async def get_service(self, name: str) -> objects.Service | None:
        raw = await self._get(f"{self._base}/services/{name}")
        return _decode_service(raw) if raw else None

    async def delete_pod(self, name: str, uid: str) -> bool:
        """Start the deletion of the Pod with this uid. Return False if that Pod is gone already."""
        return await self._delete(f"{self._base}/pods/{name}", uid)

    async def delete_service(self, name: str, uid: str) -> bool:
        """Start the deletion of the Service with this uid. Return False if that Service is gone already."""
        return await self._delete(f"{self._base}/services/{name}", uid)

    async def list_all(self, resource: Resource[Kind]) -> ObjectList[Kind]:
        """List page by page. All pages show the objects at one resourceVersion.

        Raises:
            Expired: the list took longer than the API server keeps that version.
        """
        items: list[Kind] = []
        query = {**resource.query, "limit": PAGE}
        while True:
            page = resource.decode_page(await self._server.call("GET", f"{self._base}/{resource.name}", query=query))
            items += page.items
            if not page.metadata.continue_:
                return ObjectList(items, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def pods_of(self, sandbox_id: str) -> list[objects.Pod]:
        """Return the Pods of all incarnations of an id."""
        resource = PODS._replace(query={"labelSelector": f"{SELECTOR},{SANDBOX_ID}={sandbox_id}"})
        return (await self.list_all(resource)).items

    async def version(self, resource: Resource[Kind]) -> str:
        """Return the current resourceVersion, without the objects."""
        raw = await self._server.call("GET", f"{self._base}/{resource.name}", query={**resource.query, "limit": "1"})
        return resource.decode_page(raw).metadata.resource_version

    async def watch(
        self, resource: Resource[Kind], resource_version: str
    ) -> AsyncGenerator[list[WatchEvent[Kind]], None]:
        """Yield the events after `resource_version`, until the API server ends the watch after WATCH_SECONDS.

        Events that arrived together are one list. No list is empty.

        Raises:
            Expired: that version is too old. The API server accepts the watch first, then sends the error as an event.
        """
        query = {
            **resource.query,
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        path = f"{self._base}/{resource.name}"
        async with aclosing(self._server.lines(path, query=query, silence=WATCH_SILENCE_SECONDS)) as stream:
            async for lines in stream:
                events, error = _decode_lines(resource, lines)
                if events:
                    yield events
                if error is not None:
                    raise error

    async def _create(self, resource: str, body: bytes) -> bytes:
        try:
            return await self._server.call("POST", f"{self._base}/{resource}", body=body)
        except KubernetesError as error:
            specific = {"AlreadyExists": AlreadyExists, "NotFound": NamespaceMissing}.get(error.reason)
            if specific is None:
                raise
            raise specific(error.http_status, error.reason, error.message) from error

    async def _get(self, path: str) -> bytes | None:
        try:
            return await self._server.call("GET", path)
        except KubernetesError as error:
            if error.http_status != 404:  # noqa: PLR2004 - Not Found
                raise
            return None

    async def _delete(self, path: str, uid: str) -> bool:
        """Delete with the uid as precondition. If it fails, another object has the name, so the deletion is done."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._server.call("DELETE", path, body=_encode(options))
        except KubernetesError as error:
            if error.http_status == 404 or "UID in the precondition" in error.message:  # noqa: PLR2004 - Not Found
                return False
            raise
        return True
