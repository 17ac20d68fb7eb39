"""The nodes: free node ports, the image, and whether NODE_HOST leads to a sandbox."""

import asyncio
import socket
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, broken, ok, unknown, warning
from deploy.doctor.inspector import Node
from shared.sandbox.record import Status
from shared.settings import ServiceType
from shared.store.indexes import Selection
from shared.store.pagination import START
from shared.store.store import Store
from worker.kubernetes.client import SERVICES
from worker.kubernetes.objects import Service

NODE_PORTS = 2768
"""30000–32767, Kubernetes' default range, for all Services of the cluster. Its own range is not to be asked for."""
LOW = 0.1
"""Of what sandboxes may take: when fewer are left, it is time for another way."""
LOOKED_AT = 100
"""Running sandboxes, among which one that is ready is looked for."""
CONNECT_SECONDS = 3.0
"""What is not connected by then is dropped by a firewall: a refusal comes at once."""
_NO_NODE_PORTS = "not used: SANDBOX_SERVICE_TYPE is ClusterIP"


async def node_ports(patient: Context) -> Finding:
    if patient.settings.sandbox_service_type is not ServiceType.NODE_PORT:
        return ok(_NO_NODE_PORTS)
    ours = (await patient.cluster.list_all(SERVICES)).items
    everywhere = await patient.cluster.services_everywhere()
    return judge_node_ports(taken(ours), taken(everywhere), patient.settings.node_port_capacity)


def taken(services: Iterable[Service]) -> int:
    """The node ports that they have."""
    return len({port.node_port for service in services for port in service.spec.ports if port.node_port})


def judge_node_ports(ours: int, everywhere: int, capacity: int) -> Finding:
    """By NODE_PORT_CAPACITY, which bounds the sandboxes, and by the range, which is as wide as that at least, and from
    which all Services draw."""
    if not capacity:
        return ok(f"{everywhere} taken in the cluster; not counted, for NODE_PORT_CAPACITY is 0")
    left = max(0, min(capacity - ours, max(capacity, NODE_PORTS) - everywhere))
    seen = f"{left} left: sandboxes have {ours} of {capacity}, all Services of the cluster {everywhere}"
    if left >= LOW * capacity:
        return ok(seen)
    advice = (
        "Remove Services, or use SANDBOX_SERVICE_TYPE=ClusterIP. If the API server's --service-node-port-range has "
        "more, or is widened, raise NODE_PORT_CAPACITY."
    )
    return warning(seen, advice) if left else broken(seen, advice)


async def image(patient: Context) -> Finding:
    return judge_image(await patient.cluster.nodes(), patient.settings.sandbox_image)


def judge_image(nodes: list[Node], image: str) -> Finding:
    """A node tells of its fifty largest images only, so what is not seen may be there all the same."""
    wanted = reference(image)
    having = [
        node for node in nodes if wanted in {reference(name) for i in node.status.images for name in i.names or ()}
    ]
    if nodes and len(having) == len(nodes):
        return ok(f"{image} is on {_count(nodes)}")
    seen = f"{image} is seen on {len(having)} of {_count(nodes)}"
    return warning(
        seen,
        "The first sandbox on a node waits for the pull, perhaps for minutes: run one on each, or pull it beforehand.",
    )


def _count(nodes: list[Node]) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def reference(image: str) -> str:
    """In full, as nodes tell it: with registry, and tag or digest. A digest makes the tag beside it needless."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not {".", ":"} & set(first) and first != "localhost":
        image = f"docker.io/{image}"
    name, _, digest = image.partition("@")
    start, _, end = name.rpartition("/")
    bare, _, tag = end.partition(":")
    return f"{start}/{bare}@{digest}" if digest else f"{start}/{bare}:{tag or 'latest'}"


async def node_host(patient: Context) -> Finding:
    """Asked from here, which is not where DeerFlow runs; by a sandbox that is ready, which must answer."""
    if patient.settings.sandbox_service_type is not ServiceType.NODE_PORT:
        return ok(_NO_NODE_PORTS)
    host, port = patient.settings.node_host, await _open_port(patient)
    if port is None:
        return await _without_sandbox(host)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        advice = "A firewall must let the node ports through to the nodes, by default 30000–32767."
        return _not_reached(f"{host}:{port} does not answer", advice)
    except OSError as error:
        return _not_reached(f"{host}:{port} cannot be reached: {error}", "kind and minikube do not publish node ports.")
    writer.close()
    return ok(f"{host}:{port}, of a ready sandbox, answers in {(time.perf_counter() - began) * 1000:.0f} ms")


def _not_reached(seen: str, more: str) -> Finding:
    return broken(
        seen, f"Set NODE_HOST to an address of a node as DeerFlow reaches it (`kubectl get nodes -o wide`). {more}"
    )


async def _open_port(patient: Context) -> int | None:
    """The node port of a sandbox that is ready; None: there is no such sandbox."""
    page = await Store(patient.redis).page(Selection(status=Status.RUNNING), START, LOOKED_AT)
    return next((urlsplit(record.url).port for record in page.records if record.ready and record.url), None)


async def _without_sandbox(host: str) -> Finding:
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return warning(
            f"{host} is not known here: {error}",
            "DeerFlow must know it: set NODE_HOST to an address of a node, or try there.",
        )
    return unknown(f"no sandbox is ready whose port {host} could be asked on", "Make one, and try again.")
