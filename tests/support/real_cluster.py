"""What tests against a real cluster need to know before the first of them runs."""

import asyncio
from pathlib import Path

import httpx
from kubernetes_asyncio import client, config

KUBELET_PORT = 10250
"""A port of every node. Its answer, or its refusal, shows that the node can be reached."""
CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.1


class NotUsable(Exception):
    """Says why the tests cannot use the cluster, and what to set."""


async def node_host(kubeconfig: Path, given: str | None) -> str:
    """Return the host of node ports: `given`, or the first node's own address.

    Raises:
        NotUsable: the cluster does not answer, or the node's own address does not answer from this machine.
    """
    if given:
        return given
    try:
        host = await _first_node(kubeconfig)
    except Exception as error:
        raise NotUsable(f"The cluster of {kubeconfig} does not answer: {error!r}") from error
    await require_answer(host, KUBELET_PORT)
    return host


async def require_answer(host: str, port: int, seconds: float = CONNECT_SECONDS) -> None:
    """Connect once. A refused connection is an answer too.

    Raises:
        NotUsable: the host does not answer.
    """
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return
    except (OSError, TimeoutError) as error:
        raise NotUsable(
            f"The node address {host} does not answer on this machine. "
            "Set NODE_HOST to an address of a node that this machine reaches."
        ) from error
    writer.close()


async def get_when_reachable(url: str, seconds: float) -> httpx.Response:
    """Return the answer of the URL. Connection errors are repeated for `seconds`.

    A node programs its node ports a moment after the Pod is ready.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    async with httpx.AsyncClient(timeout=10) as outside:
        while True:
            try:
                return await outside.get(url)
            except httpx.ConnectError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)


async def _first_node(kubeconfig: Path) -> str:
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as kubernetes:
        nodes = await client.CoreV1Api(kubernetes).list_node(_request_timeout=CONNECT_SECONDS)
    return str(next(a.address for a in nodes.items[0].status.addresses if a.type == "InternalIP"))
