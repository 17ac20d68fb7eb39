"""The kube-proxy, and the HTTP server of the emulated Pods."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.storage.kinds import PODS, SERVICES
from deploy.local.emulator.storage.objects import Change, Store, StoredObject


class KubeProxy:
    """Chooses a Pod for each connection to a Service's port, round robin. The connection stays with its Pod."""

    def __init__(self, store: Store, is_running: Callable[[str], bool], seconds: float) -> None:
        self._store = store
        self._is_running = is_running  # takes the uid of a Pod
        self._seconds = seconds  # delay until a new Service or endpoint is reachable
        self._reachable_since: dict[str, float] = {}  # by uid of Services and Pods
        self._round_robin = itertools.count()
        self._connections: dict[str, set[PodConnection]] = defaultdict(set)

    def choose_pod(self, service: Object, port: Object) -> StoredObject | None:
        """Return the Pod for a new connection. None: the connection is refused."""
        candidates = self._endpoints(service)
        if not candidates or not self._is_synced(service["metadata"]["uid"]):
            return None
        pod = candidates[next(self._round_robin) % len(candidates)]
        return pod if self._is_running(pod.uid) and _listens(pod, port["targetPort"]) else None

    def _endpoints(self, service: Object) -> list[StoredObject]:
        spec = service["spec"]
        if not spec.get("selector"):
            return []
        pods = self._store.select(PODS, service["metadata"]["namespace"], spec["selector"].items())
        pods = sorted((pod for pod in pods if _has_address(pod)), key=lambda pod: pod.key)
        if spec.get("publishNotReadyAddresses"):
            return pods
        ready = [pod for pod in pods if _is_ready(pod) and self._is_synced(pod.uid)]
        # kube-proxy since 1.28: if all ready endpoints are terminating, they still serve
        return [pod for pod in ready if not pod.is_terminating] or ready

    def _is_synced(self, uid: str) -> bool:
        return time.monotonic() - self._reachable_since.get(uid, 0) >= self._seconds

    def add_connection(self, pod: StoredObject, connection: "PodConnection") -> None:
        self._connections[pod.uid].add(connection)

    def remove_connection(self, pod: StoredObject, connection: "PodConnection") -> None:
        connections = self._connections.get(pod.uid, set())
        connections.discard(connection)
        if not connections:
            self._connections.pop(pod.uid, None)

    def on_change(self, change: Change) -> None:
        kind, uid = change.last.kind, change.last.uid
        if change.after is None:
            self._reachable_since.pop(uid, None)
            if kind is PODS:
                self.abort_connections(uid)
        elif kind is SERVICES or (kind is PODS and _is_ready(change.after)):
            self._reachable_since.setdefault(uid, time.monotonic())
        elif kind is PODS:
            self._reachable_since.pop(uid, None)

    def abort_connections(self, uid: str) -> None:
        """Cut the connections of a Pod whose container ended."""
        for connection in self._connections.pop(uid, set()):
            connection.abort()


def _has_address(pod: StoredObject) -> bool:
    return "podIP" in pod.body["status"] and pod.body["status"]["phase"] not in {"Failed", "Succeeded"}


def _is_ready(pod: StoredObject) -> bool:
    conditions = pod.body["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _listens(pod: StoredObject, target: int | str) -> bool:
    """Return True for a declared port. The emulated process listens on no other."""
    ports = [port for container in pod.body["spec"]["containers"] for port in container.get("ports", [])]
    return any(target in {port["containerPort"], port.get("name")} for port in ports)


class PodConnection(asyncio.Protocol):
    """A connection to one Pod. Serves one resource over HTTP/1.1 with keep-alive."""

    def __init__(self, proxy: KubeProxy, choose_pod: Callable[[], StoredObject | None]) -> None:
        self._proxy = proxy
        self._choose_pod = choose_pod
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._pod: StoredObject | None = None
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pod = self._choose_pod()
        if self._pod is None:
            self.abort()
        else:
            self._proxy.add_connection(self._pod, self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._pod is not None:
            self._proxy.remove_connection(self._pod, self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        status, body = self._respond()
        keep_alive = self._parser.should_keep_alive()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{head}Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n".encode() + body)
        if not keep_alive:
            self._transport.close()

    def _respond(self) -> tuple[str, bytes]:
        pod = self._pod
        if pod is None or self._url.partition(b"?")[0] != b"/v1/sandbox":
            return "404 Not Found", b'{"detail":"Not Found"}'
        body = {"sandbox": pod.name, "uid": pod.uid, "namespace": pod.namespace, "labels": pod.labels}
        return "200 OK", msgspec.json.encode(body)
