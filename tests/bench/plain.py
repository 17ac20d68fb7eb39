"""The limit of what makes Pods: plain HTTP creates of the same Pod and Service against the same API server.

In a namespace of their own, where nobody watches them: what the observer does is the product's own cost.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from shared.sandbox.record import Spec
from shared.sandbox.transitions import new_record
from shared.settings import Settings
from tests.bench.load import Refused
from tests.bench.wire import Answer
from worker import manifests
from worker.kubernetes.config import configuration
from worker.kubernetes.http import LINE_BYTES
from worker.kubernetes.lazy_import import ApiClient, Configuration

CLEAR_SECONDS = 60.0
POLL_SECONDS = 0.02

_encode = msgspec.json.Encoder().encode


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Made(msgspec.Struct):
    metadata: _Metadata


class _List(msgspec.Struct):
    items: list[msgspec.Raw]


_uid = msgspec.json.Decoder(_Made).decode
_list = msgspec.json.Decoder(_List).decode


class Plain:
    """On one connection pool, as wide as a worker's."""

    def __init__(self, session: aiohttp.ClientSession, found: Configuration, token: str, settings: Settings) -> None:
        self.settings = settings
        self._session = session
        self._configuration = found
        self._headers = {"Content-Type": "application/json", "Authorization": token}
        self._base = f"{found.host}/api/v1/namespaces"

    async def create(self, sandbox_id: str) -> str:
        """The two calls in sequence; the Pod's uid. Raises Refused."""
        spec = Spec(user_id="bench")
        record = new_record(sandbox_id, spec, cluster=self.settings.cluster_name, now=time.time())
        return (await self.make(manifests.pod(record, self.settings), record))[0]

    async def make(self, pod: Any, record: Any) -> tuple[str, str]:
        """The Pod, and this record's Service for it: their uids."""
        pod_uid = await self._post("pods", _encode(pod))
        return pod_uid, await self._post("services", _encode(manifests.service(record, pod_uid, self.settings)))

    async def make_namespace(self) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.settings.k8s_namespace}}
        await self._ask("POST", self._base, _encode(body))

    async def remove_namespace(self) -> None:
        """A real cluster outlives the run."""
        await self._ask("DELETE", f"{self._base}/{self.settings.k8s_namespace}", b"")

    async def clear(self) -> None:
        """All Pods at once, without grace; returns when their Services have followed them. Raises TimeoutError."""
        await self._ask("DELETE", self._url("pods"), b'{"gracePeriodSeconds": 0}')
        async with asyncio.timeout(CLEAR_SECONDS):
            while await self.count("pods") + await self.count("services"):
                await asyncio.sleep(POLL_SECONDS)

    async def count(self, resource: str) -> int:
        """One if there are any."""
        return len(_list(await self._ask("GET", self._url(resource) + "?limit=1", b"")).items)

    async def set_ready(self, pod: str, *, ready: bool) -> None:
        """Write a Pod's Ready condition, as its kubelet would. Only an emulated cluster lets it stand."""
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": _NOW}
        body = _encode({"status": {"conditions": [condition]}})
        await self._ask("PATCH", f"{self._url('pods')}/{pod}/status", body, "application/strategic-merge-patch+json")

    async def version(self) -> str:
        """Of the Pods, now."""
        listed = msgspec.json.decode(await self._ask("GET", self._url("pods") + "?limit=1", b""))
        return str(listed["metadata"]["resourceVersion"])

    async def watch(self, version: str) -> AsyncIterator[bytes]:
        """Lines of a plain watch of the Pods, of all that has happened since `version`."""
        query = {"watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            self._url("pods"), params=query, headers=self._headers, timeout=timeout
        ) as response:
            async for line in response.content:
                yield line

    async def _post(self, resource: str, body: bytes) -> str:
        return _uid(await self._ask("POST", self._url(resource), body)).metadata.uid

    async def _ask(self, method: str, url: str, body: bytes, content_type: str = "application/json") -> bytes:
        headers = {**self._headers, "Content-Type": content_type}
        name = self._configuration.tls_server_name
        async with self._session.request(method, url, data=body, headers=headers, server_hostname=name) as response:
            answer = await response.read()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise Refused(Answer(response.status, answer))
            return answer

    def _url(self, resource: str) -> str:
        return f"{self._base}/{self.settings.k8s_namespace}/{resource}"


_NOW = "2026-01-01T00:00:00Z"


@asynccontextmanager
async def plain(settings: Settings) -> AsyncIterator[Plain]:
    """A client for the namespace that `settings` name."""
    found = await configuration(settings)
    async with ApiClient(found) as client:
        token = (await found.auth_settings()).get("BearerToken", {}).get("value", "")
        # The library's own session would look for proxies in the environment at each call, in a thread.
        pool = client.rest_client.pool_manager.connector
        async with aiohttp.ClientSession(connector=pool, connector_owner=False, read_bufsize=LINE_BYTES) as session:
            yield Plain(session, found, token, settings)


@asynccontextmanager
async def beside(settings: Settings) -> AsyncIterator[Plain]:
    """The same, for a namespace of its own beside the product's, made and removed."""
    name = f"{settings.k8s_namespace}-plain"
    async with plain(msgspec.structs.replace(settings, k8s_namespace=name)) as client:
        await client.make_namespace()
        try:
            yield client
        finally:
            await client.remove_namespace()
