"""What the doctor reads of a cluster beyond what a worker does, for which it may lack the permission. Changes nothing.

It is not in `worker.kubernetes.client`, so that a worker's Role stays as small as its work.
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


class _Seen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Version(_Seen, frozen=True):
    git_version: str


class Phase(_Seen, frozen=True):
    phase: str = ""


class Namespace(_Seen, frozen=True):
    metadata: ObjectMeta
    status: Phase = Phase()


class QuotaSpec(_Seen, frozen=True):
    scopes: tuple[str, ...] = ()
    scope_selector: Mapping[str, object] | None = None


class QuotaStatus(_Seen, frozen=True):
    hard: Mapping[str, str] = {}
    used: Mapping[str, str] = {}


class Quota(_Seen, frozen=True):
    """Amounts are Kubernetes' quantities. The status is empty until the quota's controller has seen it."""

    metadata: ObjectMeta
    spec: QuotaSpec = QuotaSpec()
    status: QuotaStatus = QuotaStatus()


class ClaimSpec(_Seen, frozen=True):
    access_modes: tuple[str, ...] = ()


class Claim(_Seen, frozen=True):
    spec: ClaimSpec = ClaimSpec()
    status: Phase = Phase()


class Image(_Seen, frozen=True):
    names: tuple[str, ...] | None = None


class NodeStatus(_Seen, frozen=True):
    images: tuple[Image, ...] = ()


class Node(_Seen, frozen=True):
    metadata: ObjectMeta
    status: NodeStatus = NodeStatus()


class ReviewStatus(_Seen, frozen=True):
    allowed: bool


class Review(_Seen, frozen=True):
    status: ReviewStatus


class Items(_Seen, frozen=True):
    metadata: ListMeta
    items: msgspec.Raw


class ClusterInspector(KubernetesClient):
    """Its methods raise KubernetesError, as the worker's do."""

    @property
    def host(self) -> str:
        """The API server's URL."""
        return self._server.host

    async def server_version(self) -> str:
        return (await self._read("/version", Version)).git_version

    async def server_time(self) -> float:
        """Seconds since the epoch, whole ones: what the server's answer says of when it was made."""
        async with self._server.request("GET", "/version") as response:
            return parsedate_to_datetime(response.headers["Date"]).timestamp()

    async def may(self, verb: str, resource: str, namespace: str) -> bool:
        """Whether the identity in the kubeconfig is allowed to; empty namespace: of what belongs to none."""
        asked = {"verb": verb, "resource": resource, **({"namespace": namespace} if namespace else {})}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        raw = await self._server.call("POST", REVIEWS, body=msgspec.json.encode(review))
        return _decoded(raw, Review).status.allowed

    async def namespace(self) -> Namespace | None:
        return await self._read_if_there(self._base, Namespace)

    async def claim(self, name: str) -> Claim | None:
        return await self._read_if_there(f"{self._base}/persistentvolumeclaims/{name}", Claim)

    async def quotas(self) -> list[Quota]:
        return await self._read_all(f"{self._base}/resourcequotas", Quota)

    async def nodes(self) -> list[Node]:
        return await self._read_all("/api/v1/nodes", Node)

    async def services_everywhere(self) -> list[Service]:
        """Of all namespaces."""
        return await self._read_all("/api/v1/services", Service)

    async def _read(self, path: str, kind: type[T]) -> T:
        return _decoded(await self._server.call("GET", path), kind)

    async def _read_if_there(self, path: str, kind: type[T]) -> T | None:
        raw = await self._get(path)
        return _decoded(raw, kind) if raw else None

    async def _read_all(self, path: str, kind: type[T]) -> list[T]:
        """Page by page."""
        found: list[T] = []
        query = {"limit": PAGE}
        while True:
            page = _decoded(await self._server.call("GET", path, query=query), Items)
            found += _decoded(page.items, list[kind])  # type: ignore[valid-type]
            if not page.metadata.continue_:
                return found
            query["continue"] = page.metadata.continue_


def _decoded(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise KubernetesError(NO_ANSWER, NOT_KUBERNETES, f"an answer that is not Kubernetes': {error}") from error
