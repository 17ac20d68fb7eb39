"""A read-only client for what only the doctor reads of a cluster. The doctor may lack the permission for some calls.

These calls are not in `worker.kubernetes.client`, because the worker's Role grants only the calls of that module.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec

from worker.kubernetes.client import PAGE, KubernetesClient
from worker.kubernetes.errors import NO_ANSWER, NOT_KUBERNETES, KubernetesError
from worker.kubernetes.objects import ListMeta, ObjectMeta, Service

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

T = TypeVar("T")


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Version(_Object, frozen=True):
    git_version: str


class Phase(_Object, frozen=True):
    phase: str = ""


class Namespace(_Object, frozen=True):
    metadata: ObjectMeta
    status: Phase = Phase()


class QuotaSpec(_Object, frozen=True):
    scopes: tuple[str, ...] = ()
    scope_selector: Mapping[str, object] | None = None


class QuotaStatus(_Object, frozen=True):
    hard: Mapping[str, str] = {}
    used: Mapping[str, str] = {}


class Quota(_Object, frozen=True):
    """Amounts are quantities of Kubernetes. The status is empty until the quota controller has filled it."""

    metadata: ObjectMeta
    spec: QuotaSpec = QuotaSpec()
    status: QuotaStatus = QuotaStatus()


class VolumeClaimSpec(_Object, frozen=True):
    access_modes: tuple[str, ...] = ()


class VolumeClaim(_Object, frozen=True):
    spec: VolumeClaimSpec = VolumeClaimSpec()
    status: Phase = Phase()


class Image(_Object, frozen=True):
    names: tuple[str, ...] | None = None


class NodeStatus(_Object, frozen=True):
    images: tuple[Image, ...] = ()


class Node(_Object, frozen=True):
    metadata: ObjectMeta
    status: NodeStatus = NodeStatus()


class ReviewStatus(_Object, frozen=True):
    allowed: bool


class Review(_Object, frozen=True):
    status: ReviewStatus


class Items(_Object, frozen=True):
    metadata: ListMeta
    items: msgspec.Raw


class ClusterInspector(KubernetesClient):
    """The methods raise KubernetesError, like those of the worker's client."""

    @property
    def host(self) -> str:
        """The API server's URL."""
        return self._server.host

    async def server_version(self) -> str:
        return (await self._read("/version", Version)).git_version

    async def server_time(self) -> float:
        """Return the `Date` of an answer, in whole seconds since the epoch."""
        async with self._server.request("GET", "/version") as response:
            return parsedate_to_datetime(response.headers["Date"]).timestamp()

    async def is_allowed(self, verb: str, resource: str, namespace: str) -> bool:
        """Return True if the kubeconfig's identity may make this call. No namespace: a cluster-scoped resource."""
        attributes = {"verb": verb, "resource": resource, **({"namespace": namespace} if namespace else {})}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        raw = await self._server.call("POST", REVIEWS, body=msgspec.json.encode(review))
        return _decoded(raw, Review).status.allowed

    async def namespace(self) -> Namespace | None:
        return await self._read_or_none(self._base, Namespace)

    async def volume_claim(self, name: str) -> VolumeClaim | None:
        return await self._read_or_none(f"{self._base}/persistentvolumeclaims/{name}", VolumeClaim)

    async def quotas(self) -> list[Quota]:
        return await self._read_all(f"{self._base}/resourcequotas", Quota)

    async def nodes(self) -> list[Node]:
        return await self._read_all("/api/v1/nodes", Node)

    async def services_in_all_namespaces(self) -> list[Service]:
        return await self._read_all("/api/v1/services", Service)

    async def _read(self, path: str, kind: type[T]) -> T:
        return _decoded(await self._server.call("GET", path), kind)

    async def _read_or_none(self, path: str, kind: type[T]) -> T | None:
        raw = await self._get(path)
        return _decoded(raw, kind) if raw else None

    async def _read_all(self, path: str, kind: type[T]) -> list[T]:
        items: list[T] = []
        query = {"limit": PAGE}
        while True:
            page = _decoded(await self._server.call("GET", path, query=query), Items)
            items += _decoded(page.items, list[kind])  # type: ignore[valid-type]
            if not page.metadata.continue_:
                return items
            query["continue"] = page.metadata.continue_


def _decoded(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise KubernetesError(NO_ANSWER, NOT_KUBERNETES, f"not an answer of Kubernetes: {error}") from error
