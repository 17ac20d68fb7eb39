"""Allocation of cluster IPs and node ports to Services."""

import asyncio
import socket
from collections.abc import Callable
from random import Random

from deploy.local.emulator.base.statuses import ApiError, FieldError, Object, internal, invalid, invalid_value
from deploy.local.emulator.defaults.services import NODE_PORT_TYPES
from deploy.local.emulator.networking.kube_proxy import KubeProxy, PodConnection
from deploy.local.emulator.networking.node_ports import NodePorts, RangeFull
from deploy.local.emulator.storage.kinds import SERVICES
from deploy.local.emulator.storage.objects import Change, Key, Store, StoredObject

_NETWORK = "10.96"
_HOSTS = 254


class ServiceAddresses:
    """Allocates the addresses of Services, and serves on their node ports."""

    def __init__(self, store: Store, node_ports: NodePorts, proxy: KubeProxy, random: Random) -> None:
        self._store = store
        self._ports = node_ports
        self._proxy = proxy
        self._random = random
        self._cluster_ips: set[str] = {
            f"{_NETWORK}.0.1",
            f"{_NETWORK}.0.10",
        }  # addresses of `kubernetes` and of the DNS
        self._servers: dict[int, asyncio.Task[asyncio.Server]] = {}

    def allocate(self, body: Object, old: Object | None = None) -> Object:
        """Return the Service with its addresses.

        Raises:
            ApiError: an address cannot be allocated. Then none is allocated.
        """
        spec = {**body["spec"]}
        if spec["type"] == "ExternalName":
            return body
        own_ports = {port["nodePort"] for port in _ports(old) if "nodePort" in port}
        new_ports: list[int] = []
        try:
            if spec["type"] in NODE_PORT_TYPES:
                spec["ports"] = self._with_node_ports(body, spec.get("ports", []), _ports(old), own_ports, new_ports)
            return {**body, "spec": self._with_cluster_ip(body, spec, old)}
        except ApiError:
            self.release(new_ports)
            raise

    def release(self, ports: list[int]) -> None:
        for port in ports:
            self._ports.release(port)

    def roll_back(self, body: Object, old: Object | None = None) -> None:
        """Release the addresses of a Service that was refused after the allocation."""
        kept_ports = {port.get("nodePort") for port in _ports(old)}
        self.release([p["nodePort"] for p in _ports(body) if "nodePort" in p and p["nodePort"] not in kept_ports])
        if old is None:
            self._cluster_ips.discard(body["spec"].get("clusterIP", ""))

    def _with_node_ports(
        self, body: Object, ports: list[Object], before: list[Object], own_ports: set[int], new_ports: list[int]
    ) -> list[Object]:
        filled = []
        for index, port in enumerate(ports):
            number = port.get("nodePort") or _previous_node_port(port, before)
            if number in own_ports:
                own_ports.discard(number)
            else:
                number = self._allocate_port(body, index, number)
                new_ports.append(number)
            filled.append({**port, "nodePort": number})
        return filled

    def _allocate_port(self, body: Object, index: int, number: int | None) -> int:
        if not number:
            try:
                return self._ports.allocate_any()
            except RangeFull as error:
                raise internal(f"failed to allocate a nodePort: {error}") from error
        low, high = self._ports.port_range
        field = f"spec.ports[{index}].nodePort"
        if not low <= number <= high:
            detail = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
            raise _invalid_service(body, invalid_value(field, number, detail))
        try:
            if self._ports.is_allocated(number):
                raise _invalid_service(body, invalid_value(field, number, "provided port is already allocated"))
            self._ports.allocate(number)
        except OSError as error:
            raise _invalid_service(body, invalid_value(field, number, "provided port is already allocated")) from error
        return number

    def _with_cluster_ip(self, body: Object, spec: Object, old: Object | None) -> Object:
        if "clusterIP" in spec or spec.get("clusterIPs"):
            address = spec.get("clusterIP") or spec["clusterIPs"][0]
            self._allocate_cluster_ip(body, address, old)
        else:
            address = self._draw_cluster_ip()
        return {**spec, "clusterIP": address, "clusterIPs": spec.get("clusterIPs") or [address]}

    def _allocate_cluster_ip(self, body: Object, address: str, old: Object | None) -> None:
        if address == "None" or (old is not None and old["spec"].get("clusterIP") == address):
            return
        if not address.startswith(f"{_NETWORK}."):
            detail = f"failed to allocate IP {address}: the provided network does not match the current range"
            raise _invalid_service(body, invalid_value("spec.clusterIPs", [address], detail))
        if address in self._cluster_ips:
            detail = f"failed to allocate IP {address}: provided IP is already allocated"
            raise _invalid_service(body, invalid_value("spec.clusterIPs", [address], detail))
        self._cluster_ips.add(address)

    def _draw_cluster_ip(self) -> str:
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
        def connection() -> PodConnection:
            return PodConnection(self._proxy, lambda: self._endpoint(number, key))

        self._servers[number] = asyncio.get_running_loop().create_task(_serve(connection, self._ports.listener(number)))

    def _endpoint(self, number: int, key: Key) -> StoredObject | None:
        service = self._store.get(SERVICES, *key)
        if service is None:
            return None
        port = next((port for port in _ports(service.body) if port.get("nodePort") == number), None)
        return None if port is None else self._proxy.choose_pod(service.body, port)

    def _close(self, number: int) -> None:
        """Close the listening socket at once, so that the port can be allocated again."""
        task = self._servers.pop(number, None)
        if task is not None and task.done():
            task.result().close()
        elif task is not None:
            task.cancel()
        self._ports.release(number)

    def close(self) -> None:
        for number in list(self._servers):
            self._close(number)
        self._ports.close()


async def _serve(connection: Callable[[], PodConnection], listener: socket.socket) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(connection, sock=listener)


def _ports(body: Object | None) -> list[Object]:
    return [] if body is None else body["spec"].get("ports", [])


def _node_ports(stored: StoredObject | None) -> set[int]:
    return {port["nodePort"] for port in _ports(stored.body if stored else None) if port.get("nodePort")}


def _previous_node_port(port: Object, before: list[Object]) -> int | None:
    """Return the node port that this port has already."""
    matches = (old for old in before if old.get("port") == port.get("port") and old["protocol"] == port["protocol"])
    return next((old.get("nodePort") for old in matches), None)


def _invalid_service(body: Object, error: FieldError) -> ApiError:
    return invalid("Service", body["metadata"].get("name", ""), [error])
