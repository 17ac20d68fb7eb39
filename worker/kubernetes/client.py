"""The worker's calls to Kubernetes: Pods, Services and Events of one namespace.

Requests are `worker.kubernetes.manifest_types`, answers `worker.kubernetes.objects`, because the models of
kubernetes-asyncio cost milliseconds each. Every failure is a `KubernetesError`.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Generic, NamedTuple, Self

import msgspec

from worker.kubernetes import manifest_types, objects
from worker.kubernetes.config import ClusterConfig
from worker.kubernetes.decoding import Page, Unreadable, decoder, object_decoder, read_frame, read_page, require_uid
from worker.kubernetes.errors import AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.http import KubernetesHTTP, to_error
from worker.kubernetes.labels import SANDBOX_ID, SELECTOR
from worker.kubernetes.objects import Kind, ObjectMeta
from worker.kubernetes.unreadable import UnreadableLog

PAGE = "500"
"""Maximum number of objects in one answer of a list; the chunk size of kubectl."""
WATCH_SECONDS = 10
"""Time after which the API server ends a watch. A watch that is silent for longer has a dead connection."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 5
"""Maximum silence of a watch before the client gives it up."""

_encode = msgspec.json.Encoder().encode
_decode_status = decoder(objects.ApiStatus)
_decode_pod = decoder(objects.Pod)
_decode_service = decoder(objects.Service)


class WatchEvent(NamedTuple, Generic[Kind]):
    """Event of a watch. The object of a BOOKMARK has a resourceVersion only."""

    type: str
    object: Kind


class ObjectList(NamedTuple, Generic[Kind]):
    """All objects of a resource at `resource_version`: those in `items`, and the unreadable ones."""

    items: list[Kind]
    unreadable: list[Unreadable]
    resource_version: str

    @property
    def uids(self) -> set[str]:
        """The uids of all objects, as far as they can be read."""
        return {metadata.uid for metadata in self.metadata}

    @property
    def metadata(self) -> list[ObjectMeta]:
        """The metadata of all objects, as far as they can be read."""
        return [item.metadata for item in self.items] + [item.metadata for item in self.unreadable]

    @property
    def is_complete(self) -> bool:
        """False if an object is in the cluster whose uid is not in `uids`: then no object can be called missing."""
        return all(item.metadata.uid for item in self.unreadable)


class Resource(NamedTuple, Generic[Kind]):
    """Kind of objects to list and watch. `query` selects those that can belong to a sandbox."""

    name: str
    query: Mapping[str, str]
    kind: type[Kind]
    decode: Callable[[bytes | msgspec.Raw], Kind | Unreadable]


_BY_LABEL = {"labelSelector": SELECTOR}
_OF_PODS = {"fieldSelector": "involvedObject.kind=Pod"}  # Events have no labels
PODS = Resource("pods", _BY_LABEL, objects.Pod, object_decoder(objects.Pod))
SERVICES = Resource("services", _BY_LABEL, objects.Service, object_decoder(objects.Service))
EVENTS = Resource("events", _OF_PODS, objects.Event, object_decoder(objects.Event))


class KubernetesClient:
    """Client of one cluster for one namespace. Close the client, or use the client as an async context manager.

    `clock` measures how long the API server refuses the credentials or a right.
    """

    def __init__(
        self, config: ClusterConfig, namespace: str, timeout: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = KubernetesHTTP(config, timeout, clock)
        self._unreadable = UnreadableLog()
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
        unreadable: list[Unreadable] = []
        query = {**resource.query, "limit": PAGE}
        while True:
            page = await self._read_page(resource, query)
            items += page.items
            unreadable += page.unreadable
            if not page.metadata.continue_:
                return ObjectList(items, unreadable, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def pods_of(self, sandbox_id: str) -> list[objects.Pod]:
        """Return the Pods of all incarnations of an id."""
        resource = PODS._replace(query={"labelSelector": f"{SELECTOR},{SANDBOX_ID}={sandbox_id}"})
        return (await self.list_all(resource)).items

    async def version(self, resource: Resource[Kind]) -> str:
        """Return the current resourceVersion, without the objects."""
        return (await self._read_page(resource, {**resource.query, "limit": "1"})).metadata.resource_version

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
                events, error = self._decode_lines(resource, lines)
                if events:
                    yield events
                if error is not None:
                    raise error

    async def _read_page(self, resource: Resource[Kind], query: Mapping[str, str]) -> Page[Kind]:
        raw = await self._server.call("GET", f"{self._base}/{resource.name}", query=query)
        page = read_page(raw, resource.decode)
        for item in page.unreadable:
            self._unreadable.report(resource.name, item)
        return page

    def _decode_lines(
        self, resource: Resource[Kind], lines: Sequence[bytes]
    ) -> tuple[list[WatchEvent[Kind]], KubernetesError | None]:
        """Return the events before the first ERROR or line of another program, and that line's error."""
        events: list[WatchEvent[Kind]] = []
        try:
            for line in lines:
                frame = read_frame(line)
                if frame.type == "ERROR":
                    raise to_error(_decode_status(frame.object))
                events += self._event(resource, frame)
        except KubernetesError as error:
            return events, error
        return events, None

    def _event(self, resource: Resource[Kind], frame: objects.WatchFrame) -> Iterator[WatchEvent[Kind]]:
        """Yield the event. An unreadable object is skipped, but its deletion is not, if its uid can be read."""
        decoded = resource.decode(frame.object)
        if frame.type != "BOOKMARK":
            decoded = require_uid(decoded)
        if isinstance(decoded, Unreadable):
            self._unreadable.report(resource.name, decoded)
            if frame.type != "DELETED" or not decoded.metadata.uid:
                return
            decoded = resource.kind(metadata=decoded.metadata)
        yield WatchEvent(frame.type, decoded)

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
