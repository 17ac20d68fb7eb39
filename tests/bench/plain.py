"""The limit of creates: plain HTTP calls that create the same Pod and Service at the same API server.

The objects are in a namespace without a watch. So the leader's work counts as the product's own cost.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import msgspec

from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import new_record
from shared.settings import Settings
from tests.bench.load import UnexpectedStatus
from tests.bench.wire import Response
from worker import manifests
from worker.kubernetes.config import ClusterConfig, configuration
from worker.kubernetes.credentials.renewal import Current
from worker.kubernetes.http import LINE_BYTES

CLEAR_SECONDS = 60.0
"""Time limit for the removal of all Pods and Services."""
POLL_SECONDS = 0.02
_TRANSITION_TIME = "2026-01-01T00:00:00Z"

_encode = msgspec.json.Encoder().encode


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata


class _List(msgspec.Struct):
    items: list[msgspec.Raw]


_uid = msgspec.json.Decoder(_Object).decode
_list = msgspec.json.Decoder(_List).decode


class PlainClient:
    """A client with one connection pool, as large as a worker's."""

    def __init__(
        self, session: aiohttp.ClientSession, config: ClusterConfig, credentials: Current, settings: Settings
    ) -> None:
        self.settings = settings
        self._session = session
        self._config = config
        self._tls = credentials.tls
        self._headers = {"Content-Type": "application/json", **credentials.headers}
        self._base = f"{config.host}/api/v1/namespaces"

    async def create(self, sandbox_id: str) -> str:
        """Create Pod and Service, one after the other, and return the Pod's uid.

        Raises:
            UnexpectedStatus: Kubernetes refuses. That holds for all methods.
        """
        spec = Spec(user_id="bench")
        record = new_record(sandbox_id, spec, cluster=self.settings.cluster_name, now=time.time())
        return (await self.create_objects(record))[0]

    async def create_objects(self, record: Sandbox) -> tuple[str, str]:
        """Create the Pod and the Service of a record, and return their uids."""
        pod_uid = await self._post("pods", _encode(manifests.pod(record, self.settings)))
        return pod_uid, await self._post("services", _encode(manifests.service(record, pod_uid, self.settings)))

    async def create_namespace(self) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.settings.k8s_namespace}}
        await self._request("POST", self._base, _encode(body))

    async def remove_namespace(self) -> None:
        """Remove the namespace. A real cluster outlives the run."""
        await self._request("DELETE", f"{self._base}/{self.settings.k8s_namespace}", b"")

    async def clear(self) -> None:
        """Delete all Pods without grace period, and wait until their Services are gone, too.

        Raises:
            TimeoutError: some are left after CLEAR_SECONDS.
        """
        await self._request("DELETE", self._url("pods"), b'{"gracePeriodSeconds": 0}')
        async with asyncio.timeout(CLEAR_SECONDS):
            while await self._has_any("pods") or await self._has_any("services"):
                await asyncio.sleep(POLL_SECONDS)

    async def set_ready(self, pod: str, *, ready: bool) -> None:
        """Write a Pod's Ready condition, as its kubelet does. On a real cluster the kubelet would overwrite it."""
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": _TRANSITION_TIME}
        body = _encode({"status": {"conditions": [condition]}})
        await self._request(
            "PATCH", f"{self._url('pods')}/{pod}/status", body, "application/strategic-merge-patch+json"
        )

    async def pods_version(self) -> str:
        """Return the resource version from which a watch of the Pods shows all later changes."""
        pods = msgspec.json.decode(await self._request("GET", self._url("pods") + "?limit=1", b""))
        return str(pods["metadata"]["resourceVersion"])

    async def watch_pods(self, version: str) -> AsyncIterator[bytes]:
        """Yield the lines of a plain watch of the Pods, starting after `version`."""
        query = {"watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            self._url("pods"), params=query, headers=self._headers, ssl=self._tls, timeout=timeout
        ) as response:
            async for line in response.content:
                yield line

    async def _has_any(self, resource: str) -> bool:
        return bool(_list(await self._request("GET", self._url(resource) + "?limit=1", b"")).items)

    async def _post(self, resource: str, body: bytes) -> str:
        return _uid(await self._request("POST", self._url(resource), body)).metadata.uid

    async def _request(self, method: str, url: str, body: bytes, content_type: str = "application/json") -> bytes:
        headers = {**self._headers, "Content-Type": content_type}
        name = self._config.tls_server_name
        async with self._session.request(
            method, url, data=body, headers=headers, ssl=self._tls, server_hostname=name
        ) as response:
            content = await response.read()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise UnexpectedStatus(Response(response.status, content))
            return content

    def _url(self, resource: str) -> str:
        return f"{self._base}/{self.settings.k8s_namespace}/{resource}"


@asynccontextmanager
async def open_plain(settings: Settings) -> AsyncIterator[PlainClient]:
    """Open a client for the namespace of the settings."""
    config = await configuration(settings)
    pool = aiohttp.TCPConnector(limit=config.max_connections)
    async with aiohttp.ClientSession(connector=pool, read_bufsize=LINE_BYTES) as session:
        yield PlainClient(session, config, await config.credentials.current(), settings)


@asynccontextmanager
async def open_plain_beside(settings: Settings) -> AsyncIterator[PlainClient]:
    """Open a client for a namespace of its own beside the product's, which is created, and removed at the end."""
    name = f"{settings.k8s_namespace}-plain"
    async with open_plain(msgspec.structs.replace(settings, k8s_namespace=name)) as client:
        await client.create_namespace()
        try:
            yield client
        finally:
            await client.remove_namespace()
