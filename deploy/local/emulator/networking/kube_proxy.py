"""What answers on node ports: the kube-proxy, and the HTTP server inside every emulated Pod."""

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
from deploy.local.emulator.storage.objects import Change, Store, Stored


class Proxy:
    """Chooses a Pod, in turn, for each connection to a Service's port; as with kube-proxy it stays there."""

    def __init__(self, store: Store, running: Callable[[str], bool], seconds: float) -> None:
        self._store = store
        self._running = running  # does the container of the Pod with this uid run?
        self._seconds = seconds  # how long it takes to learn of a new Service or endpoint
        self._since: dict[str, float] = {}  # uids of Services and Pods that can be reached, and since when
        self._turns = itertools.count()
        self._open: dict[str, set[Connection]] = defaultdict(set)

    def choose(self, service: Object, port: Object) -> Stored | None:
        """None: nobody listens there, and the connection is refused."""
        candidates = self._endpoints(service)
        if not candidates or not self._known(service["metadata"]["uid"]):
            return None
        pod = candidates[next(self._turns) % len(candidates)]
        return pod if self._running(pod.uid) and _listens(pod, port["targetPort"]) else None

    def _endpoints(self, service: Object) -> list[Stored]:
        spec = service["spec"]
        if not spec.get("selector"):
            return []
        pods = self._store.select(PODS, service["metadata"]["namespace"], spec["selector"].items())
        pods = sorted((pod for pod in pods if _addressable(pod)), key=lambda pod: pod.key)
        if spec.get("publishNotReadyAddresses"):
            return pods
        ready = [pod for pod in pods if _ready(pod) and self._known(pod.uid)]
        # kube-proxy since 1.28: with no endpoint left but terminating ones that are still ready, those serve on
        return [pod for pod in ready if not pod.terminating] or ready

    def _known(self, uid: str) -> bool:
        return time.monotonic() - self._since.get(uid, 0) >= self._seconds

    def opened(self, pod: Stored, connection: "Connection") -> None:
        self._open[pod.uid].add(connection)

    def closed(self, pod: Stored, connection: "Connection") -> None:
        connections = self._open.get(pod.uid, set())
        connections.discard(connection)
        if not connections:
            self._open.pop(pod.uid, None)

    def on_change(self, change: Change) -> None:
        kind, uid = change.last.kind, change.last.uid
        if change.after is None:
            self._since.pop(uid, None)
            if kind is PODS:
                self.stopped(uid)
        elif kind is SERVICES or (kind is PODS and _ready(change.after)):
            self._since.setdefault(uid, time.monotonic())
        elif kind is PODS:
            self._since.pop(uid, None)

    def stopped(self, uid: str) -> None:
        """The container's process ended, and its connections with it."""
        for connection in self._open.pop(uid, set()):
            connection.abort()


def _addressable(pod: Stored) -> bool:
    return "podIP" in pod.body["status"] and pod.body["status"]["phase"] not in {"Failed", "Succeeded"}


def _ready(pod: Stored) -> bool:
    conditions = pod.body["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _listens(pod: Stored, target: int | str) -> bool:
    """The emulated process listens on the ports its container declares, and on no other."""
    ports = [port for container in pod.body["spec"]["containers"] for port in container.get("ports", [])]
    return any(target in {port["containerPort"], port.get("name")} for port in ports)


class Connection(asyncio.Protocol):
    """One connection to one Pod: HTTP/1.1 with keep-alive, one resource."""

    def __init__(self, proxy: Proxy, choose: Callable[[], Stored | None]) -> None:
        self._proxy = proxy
        self._choose = choose
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._pod: Stored | None = None
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pod = self._choose()
        if self._pod is None:
            self.abort()
        else:
            self._proxy.opened(self._pod, self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._pod is not None:
            self._proxy.closed(self._pod, self)

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
        status, body = self._answer()
        keep = self._parser.should_keep_alive()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{head}Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode() + body)
        if not keep:
            self._transport.close()

    def _answer(self) -> tuple[str, bytes]:
        pod = self._pod
        if pod is None or self._url.partition(b"?")[0] != b"/v1/sandbox":
            return "404 Not Found", b'{"detail":"Not Found"}'
        told = {"sandbox": pod.name, "uid": pod.uid, "namespace": pod.namespace, "labels": pod.labels}
        return "200 OK", msgspec.json.encode(told)
