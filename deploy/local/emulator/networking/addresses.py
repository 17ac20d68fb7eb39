"""What a Service is given when it is made: a cluster IP and node ports, taken back when it goes."""

import asyncio
import socket
from collections.abc import Callable
from random import Random

from deploy.local.emulator.base.statuses import ApiError, FieldError, Object, internal, invalid, invalid_value
from deploy.local.emulator.defaults.services import REACHED_FROM_OUTSIDE
from deploy.local.emulator.networking.kube_proxy import Connection, Proxy
from deploy.local.emulator.networking.node_ports import NodePorts, RangeFull
from deploy.local.emulator.storage.kinds import SERVICES
from deploy.local.emulator.storage.objects import Change, Key, Store, Stored

_NETWORK = "10.96"
_HOSTS = 254


class Addresses:
    """Allocates for Services, and opens their node ports for answering."""

    def __init__(self, store: Store, node_ports: NodePorts, proxy: Proxy, random: Random) -> None:
        self._store = store
        self._ports = node_ports
        self._proxy = proxy
        self._random = random
        self._cluster_ips: set[str] = {f"{_NETWORK}.0.1", f"{_NETWORK}.0.10"}  # `kubernetes` and the DNS
        self._servers: dict[int, asyncio.Task[asyncio.Server]] = {}

    def allocate(self, body: Object, old: Object | None = None) -> Object:
        """The Service with its addresses filled in. Raises and keeps nothing when one cannot be had."""
        spec = {**body["spec"]}
        if spec["type"] == "ExternalName":
            return body
        held = {port["nodePort"] for port in _ports(old) if "nodePort" in port}
        taken: list[int] = []
        try:
            if spec["type"] in REACHED_FROM_OUTSIDE:
                spec["ports"] = self._with_node_ports(body, spec.get("ports", []), _ports(old), held, taken)
            return {**body, "spec": self._with_cluster_ip(body, spec, old)}
        except ApiError:
            self.give_back(taken)
            raise

    def give_back(self, ports: list[int]) -> None:
        for port in ports:
            self._ports.give_back(port)

    def undo(self, body: Object, old: Object | None = None) -> None:
        """An allocation whose Service was then refused."""
        kept = {port.get("nodePort") for port in _ports(old)}
        self.give_back([p["nodePort"] for p in _ports(body) if "nodePort" in p and p["nodePort"] not in kept])
        if old is None:
            self._cluster_ips.discard(body["spec"].get("clusterIP", ""))

    def _with_node_ports(
        self, body: Object, ports: list[Object], before: list[Object], held: set[int], taken: list[int]
    ) -> list[Object]:
        filled = []
        for index, port in enumerate(ports):
            number = port.get("nodePort") or _same_port(port, before)
            if number in held:
                held.discard(number)
            else:
                number = self._take(body, index, number)
                taken.append(number)
            filled.append({**port, "nodePort": number})
        return filled

    def _take(self, body: Object, index: int, number: int | None) -> int:
        if not number:
            try:
                return self._ports.draw()
            except RangeFull as error:
                raise internal(f"failed to allocate a nodePort: {error}") from error
        low, high = self._ports.span
        field = f"spec.ports[{index}].nodePort"
        if not low <= number <= high:
            why = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
            raise _refused(body, invalid_value(field, number, why))
        try:
            if self._ports.taken(number):
                raise _refused(body, invalid_value(field, number, "provided port is already allocated"))
            self._ports.take(number)
        except OSError as error:
            raise _refused(body, invalid_value(field, number, "provided port is already allocated")) from error
        return number

    def _with_cluster_ip(self, body: Object, spec: Object, old: Object | None) -> Object:
        if "clusterIP" in spec or spec.get("clusterIPs"):
            address = spec.get("clusterIP") or spec["clusterIPs"][0]
            self._claim(body, address, old)
        else:
            address = self._draw_address()
        return {**spec, "clusterIP": address, "clusterIPs": spec.get("clusterIPs") or [address]}

    def _claim(self, body: Object, address: str, old: Object | None) -> None:
        if address == "None" or (old is not None and old["spec"].get("clusterIP") == address):
            return
        if not address.startswith(f"{_NETWORK}."):
            why = f"failed to allocate IP {address}: the provided network does not match the current range"
            raise _refused(body, invalid_value("spec.clusterIPs", [address], why))
        if address in self._cluster_ips:
            why = f"failed to allocate IP {address}: provided IP is already allocated"
            raise _refused(body, invalid_value("spec.clusterIPs", [address], why))
        self._cluster_ips.add(address)

    def _draw_address(self) -> str:
        while True:
            address = f"{_NETWORK}.{self._random.randint(0, _HOSTS)}.{self._random.randint(1, _HOSTS)}"
            if address not in self._cluster_ips:
                self._cluster_ips.add(address)
                return address

    def on_change(self, change: Change) -> None:
        if change.last.kind is not SERVICES:
            return
        before, after = _node_ports(change.before), _node_ports(change.after)
        for port in before - after:
            self._close(port)
        for port in after - before:
            self._open(port, change.last.key)
        if change.after is None:
            self._cluster_ips.discard(change.last.body["spec"].get("clusterIP", ""))

    def _open(self, number: int, key: Key) -> None:
        def connection() -> Connection:
            return Connection(self._proxy, lambda: self._endpoint(number, key))

        self._servers[number] = asyncio.get_running_loop().create_task(_serve(connection, self._ports.listener(number)))

    def _endpoint(self, number: int, key: Key) -> Stored | None:
        service = self._store.get(SERVICES, *key)
        if service is None:
            return None
        port = next((port for port in _ports(service.body) if port.get("nodePort") == number), None)
        return None if port is None else self._proxy.choose(service.body, port)

    def _close(self, number: int) -> None:
        """The listening socket goes at once, so that the port can be drawn again."""
        serving = self._servers.pop(number, None)
        if serving is not None and serving.done():
            serving.result().close()
        elif serving is not None:
            serving.cancel()
        self._ports.give_back(number)

    def close(self) -> None:
        for number in list(self._servers):
            self._close(number)
        self._ports.close()


async def _serve(connection: Callable[[], Connection], listener: socket.socket) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(connection, sock=listener)


def _ports(body: Object | None) -> list[Object]:
    return [] if body is None else body["spec"].get("ports", [])


def _node_ports(stored: Stored | None) -> set[int]:
    return {port["nodePort"] for port in _ports(stored.body if stored else None) if port.get("nodePort")}


def _same_port(port: Object, before: list[Object]) -> int | None:
    """A port that was there before keeps its node port."""
    same = (old for old in before if old.get("port") == port.get("port") and old["protocol"] == port["protocol"])
    return next((old.get("nodePort") for old in same), None)


def _refused(body: Object, error: FieldError) -> ApiError:
    return invalid("Service", body["metadata"].get("name", ""), [error])
