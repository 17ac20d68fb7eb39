"""What we ask of a cluster, and nothing else: Pods, Services and what is told of them, in one namespace.

Requests and answers are our own structs (`worker.kubernetes.manifest_types`, `worker.kubernetes.objects`): the client library's models cost
milliseconds each. Every failure is a `KubernetesError`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import msgspec

from worker.kubernetes import manifest_types, objects
from worker.kubernetes.errors import NO_ANSWER, NOT_KUBERNETES, AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.http import KubernetesHTTP, as_error
from worker.kubernetes.labels import SANDBOX_ID, SELECTOR
from worker.kubernetes.lazy_import import Configuration
from worker.kubernetes.objects import Kind

PAGE = "500"
"""Objects a list call returns at most, as kubectl has it."""
WATCH_SECONDS = 10
"""A watch is asked to end after this long, so that one which is silent for longer is known to be dead."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 5

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_failure = msgspec.json.Decoder(objects.ApiStatus).decode


def _reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Decodes one kind of answer; what is none, as of a proxy that answers in its place, is no answer."""
    decode = msgspec.json.Decoder(kind).decode

    def read(raw: bytes | msgspec.Raw) -> T:
        try:
            return decode(raw)
        except msgspec.DecodeError as error:
            raise KubernetesError(NO_ANSWER, NOT_KUBERNETES, f"an answer that is not Kubernetes': {error}") from error

    return read


_frame = _reader(objects.WatchFrame)
_pod = _reader(objects.Pod)
_service = _reader(objects.Service)


class WatchEvent(NamedTuple, Generic[Kind]):
    """One line of a watch; a BOOKMARK's object has a resourceVersion and nothing else."""

    type: str
    object: Kind


class ObjectList(NamedTuple, Generic[Kind]):
    """All there are, as they were at `resource_version`."""

    items: list[Kind]
    resource_version: str


class Resource(NamedTuple, Generic[Kind]):
    """One kind of objects that is listed and watched, those of ours only."""

    name: str
    query: Mapping[str, str]
    page: Callable[[bytes], objects.ListPage[Kind]]
    read: Callable[[msgspec.Raw], Kind]


_OURS = {"labelSelector": SELECTOR}
PODS = Resource("pods", _OURS, _reader(objects.ListPage[objects.Pod]), _pod)
SERVICES = Resource("services", _OURS, _reader(objects.ListPage[objects.Service]), _service)
EVENTS = Resource(
    "events",
    {"fieldSelector": "involvedObject.kind=Pod"},  # they have no labels
    _reader(objects.ListPage[objects.Event]),
    _reader(objects.Event),
)


def _changes(resource: Resource[Kind], lines: Sequence[bytes]) -> tuple[list[WatchEvent[Kind]], KubernetesError | None]:
    """What these lines say, up to the first that cannot be read or says that something is wrong."""
    changes: list[WatchEvent[Kind]] = []
    try:
        for line in lines:
            frame = _frame(line)
            if frame.type == "ERROR":
                raise as_error(_failure(frame.object))
            changes.append(WatchEvent(frame.type, resource.read(frame.object)))
    except KubernetesError as error:
        return changes, error
    return changes, None


class KubernetesClient:
    """One cluster's Pods and Services in one namespace. Close it, or use it as an async context manager."""

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
        """Raises AlreadyExists, NamespaceMissing."""
        return _pod(await self._create("pods", _encode(pod)))

    async def create_service(self, service: manifest_types.ServiceManifest) -> objects.Service:
        """The answer holds the node port. Raises AlreadyExists, NamespaceMissing."""
        return _service(await self._create("services", _encode(service)))

    async def create_namespace(self) -> None:
        """Forgives that it is there already."""
        namespace = manifest_types.NamespaceManifest(
            api_version="v1", kind="Namespace", metadata={"name": self._namespace}
        )
        try:
            await self._server.call("POST", "/api/v1/namespaces", body=_encode(namespace))
        except KubernetesError as error:
            if error.http_status != 409:  # noqa: PLR2004 - Conflict: made by somebody else meanwhile
                raise

    async def get_pod(self, name: str) -> objects.Pod | None:
        raw = await self._get(f"{self._base}/pods/{name}")
        return _pod(raw) if raw else None

    async def get_service(self, name: str) -> objects.Service | None:
        raw = await self._get(f"{self._base}/services/{name}")
        return _service(raw) if raw else None

    async def delete_pod(self, name: str, uid: str) -> bool:
        """Ask for the end of the Pod with this uid. False: it is not there any more."""
        return await self._delete(f"{self._base}/pods/{name}", uid)

    async def delete_service(self, name: str, uid: str) -> bool:
        return await self._delete(f"{self._base}/services/{name}", uid)

    async def list_all(self, resource: Resource[Kind]) -> ObjectList[Kind]:
        """Page by page, all of one moment. Raises Expired when that took longer than the server keeps it."""
        found: list[Kind] = []
        query = {**resource.query, "limit": PAGE}
        while True:
            page = resource.page(await self._server.call("GET", f"{self._base}/{resource.name}", query=query))
            found += page.items
            if not page.metadata.continue_:
                return ObjectList(found, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def pods_of(self, sandbox_id: str) -> list[objects.Pod]:
        """Of all its lives."""
        of_id = PODS._replace(query={"labelSelector": f"{SELECTOR},{SANDBOX_ID}={sandbox_id}"})
        return (await self.list_all(of_id)).items

    async def version(self, resource: Resource[Kind]) -> str:
        """The resourceVersion of now."""
        raw = await self._server.call("GET", f"{self._base}/{resource.name}", query={**resource.query, "limit": "1"})
        return resource.page(raw).metadata.resource_version

    async def watch(
        self, resource: Resource[Kind], resource_version: str
    ) -> AsyncGenerator[list[WatchEvent[Kind]], None]:
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
        path = f"{self._base}/{resource.name}"
        async with aclosing(self._server.lines(path, query=query, silence=WATCH_SILENCE_SECONDS)) as stream:
            async for lines in stream:
                changes, failure = _changes(resource, lines)
                if changes:
                    yield changes
                if failure is not None:
                    raise failure

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
        """The uid is a precondition: when it fails, the name is another object's by now, hence ours is gone."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._server.call("DELETE", path, body=_encode(options))
        except KubernetesError as error:
            if error.http_status == 404 or "UID in the precondition" in error.message:  # noqa: PLR2004 - Not Found
                return False
            raise
        return True
