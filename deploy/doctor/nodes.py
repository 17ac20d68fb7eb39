"""Checks of the nodes: free node ports, the sandbox image, and the way from NODE_HOST to a sandbox."""

import asyncio
import socket
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, failed, ok, unknown, warning
from deploy.doctor.inspector import Node
from shared.sandbox.record import Status
from shared.settings import ServiceType
from shared.store.indexes import Selection
from shared.store.pagination import START
from shared.store.store import Store
from worker.kubernetes.client import SERVICES
from worker.kubernetes.objects import Service

NODE_PORTS = 2768
"""Size of Kubernetes' default range, 30000–32767, for all Services of a cluster. No API tells a cluster's own range."""
LOW = 0.1
"""Share of NODE_PORT_CAPACITY below which the check warns, while there is time to change something."""
MAX_RECORDS = 100
"""Running sandboxes that are read to find a ready one."""
CONNECT_SECONDS = 3.0
"""Time limit of a connection. A firewall that drops packets causes a timeout; a refusal comes at once."""
_NO_NODE_PORTS = "not used: SANDBOX_SERVICE_TYPE is ClusterIP"


async def check_node_ports(context: Context) -> Finding:
    if context.settings.sandbox_service_type is not ServiceType.NODE_PORT:
        return ok(_NO_NODE_PORTS)
    of_sandboxes = count_node_ports((await context.cluster.list_all(SERVICES)).items)
    of_all = count_node_ports(await context.cluster.services_in_all_namespaces())
    return judge_node_ports(of_sandboxes, of_all, context.settings.node_port_capacity)


def count_node_ports(services: Iterable[Service]) -> int:
    return len({port.node_port for service in services for port in service.spec.ports if port.node_port})


def judge_node_ports(of_sandboxes: int, of_all: int, capacity: int) -> Finding:
    """Compare with NODE_PORT_CAPACITY, which limits the sandboxes, and with the range, which limits all Services.

    The range is taken to be at least as large as NODE_PORT_CAPACITY.
    """
    if not capacity:
        return ok(f"{of_all} used in the cluster; not limited, because NODE_PORT_CAPACITY is 0")
    left = max(0, min(capacity - of_sandboxes, max(capacity, NODE_PORTS) - of_all))
    detail = f"{left} left: sandboxes use {of_sandboxes} of {capacity}, all Services of the cluster {of_all}"
    if left >= LOW * capacity:
        return ok(detail)
    advice = (
        "Remove Services, or use SANDBOX_SERVICE_TYPE=ClusterIP. If the API server's --service-node-port-range is "
        "larger, or is made larger, raise NODE_PORT_CAPACITY."
    )
    return warning(detail, advice) if left else failed(detail, advice)


async def check_image(context: Context) -> Finding:
    return judge_image(await context.cluster.nodes(), context.settings.sandbox_image)


def judge_image(nodes: list[Node], image: str) -> Finding:
    """Compare with the images that nodes report. A node reports its fifty largest images, so one may be missing."""
    full_name = reference(image)
    with_image = [
        node for node in nodes if full_name in {reference(name) for i in node.status.images for name in i.names or ()}
    ]
    if nodes and len(with_image) == len(nodes):
        return ok(f"{image} is on {_count(nodes)}")
    return warning(
        f"{image} is reported by {len(with_image)} of {_count(nodes)}",
        "The first sandbox on a node waits for the pull, which can take minutes. "
        "Pull the image on each node beforehand, or run one sandbox on each.",
    )


def _count(nodes: list[Node]) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def reference(image: str) -> str:
    """Return the full name, as nodes report it: with registry, and tag or digest. A digest replaces the tag."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not {".", ":"} & set(first) and first != "localhost":
        image = f"docker.io/{image}"
    name, _, digest = image.partition("@")
    start, _, end = name.rpartition("/")
    bare, _, tag = end.partition(":")
    return f"{start}/{bare}@{digest}" if digest else f"{start}/{bare}:{tag or 'latest'}"


async def check_node_host(context: Context) -> Finding:
    """Connect to the node port of a ready sandbox from this host. DeerFlow may run on another host."""
    if context.settings.sandbox_service_type is not ServiceType.NODE_PORT:
        return ok(_NO_NODE_PORTS)
    host, port = context.settings.node_host, await _port_of_ready_sandbox(context)
    if port is None:
        return await _check_host_name(host)
    started_at = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        advice = "Open the node ports, 30000–32767 by default, in the firewalls of the nodes."
        return _unreachable(f"{host}:{port} does not answer", advice)
    except OSError as error:
        return _unreachable(f"{host}:{port} cannot be reached: {error}", "kind and minikube do not publish node ports.")
    writer.close()
    return ok(f"{host}:{port}, a ready sandbox, answers in {(time.perf_counter() - started_at) * 1000:.0f} ms")


def _unreachable(detail: str, hint: str) -> Finding:
    return failed(
        detail, f"Set NODE_HOST to an address of a node as DeerFlow reaches it (`kubectl get nodes -o wide`). {hint}"
    )


async def _port_of_ready_sandbox(context: Context) -> int | None:
    page = await Store(context.redis).page(Selection(status=Status.RUNNING), START, MAX_RECORDS)
    return next((urlsplit(record.url).port for record in page.records if record.ready and record.url), None)


async def _check_host_name(host: str) -> Finding:
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return warning(
            f"{host} cannot be resolved on this host: {error}",
            "DeerFlow must resolve it. Set NODE_HOST to an address of a node, or run the doctor where DeerFlow runs.",
        )
    return unknown(f"no sandbox is ready, so no node port of {host} can be tried", "Create a sandbox, and try again.")
