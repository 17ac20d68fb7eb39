"""Addresses and node ports of Services, and the Pods that answer on them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


async def request(pod: dict[str, Any], port: int, path: str = "/v1/sandbox") -> httpx.Response | None:
    """Return None if the connection is refused."""
    try:
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            return await http.get(f"http://{pod['status']['hostIP']}:{port}{path}")
    except httpx.TransportError:
        return None


async def ready_pod_and_port(client: Client, pod: Make, service: Make, **spec: Any) -> tuple[dict[str, Any], int]:
    await client.create("pods", pod())
    service_body = (await client.create("services", service(**spec))).body
    return await client.ready("p"), service_body["spec"]["ports"][0]["nodePort"]


async def test_ready_pod_answers_on_node_port(client: Client, pod: Make, service: Make):
    ready, port = await ready_pod_and_port(client, pod, service)
    response = await request(ready, port)
    assert response is not None
    assert response.json() == {
        "sandbox": "p",
        "uid": ready["metadata"]["uid"],
        "namespace": "default",
        "labels": ready["metadata"]["labels"],
    }
    other = await request(ready, port, "/else")
    assert other is not None
    assert other.status_code == 404


async def test_connection_is_kept_alive_until_pod_ends(client: Client, pod: Make, service: Make):
    ready, port = await ready_pod_and_port(client, pod, service)
    reader, writer = await asyncio.open_connection(ready["status"]["hostIP"], port)
    for _ in range(3):
        writer.write(b"GET /v1/sandbox HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 OK")
    await client.delete("pods", "p", {"gracePeriodSeconds": 0})
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_unready_pod_does_not_answer(start: Start, pod: Make, service: Make):
    client = await start(ready_seconds=30)
    await client.create("pods", pod())
    port = (await client.create("services", service())).body["spec"]["ports"][0]["nodePort"]
    running = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Running")
    assert await request(running, port) is None


async def test_unready_pod_answers_if_service_publishes_it(start: Start, pod: Make, service: Make):
    client = await start(ready_seconds=30)
    await client.create("pods", pod())
    port = (await client.create("services", service(publishNotReadyAddresses=True))).body["spec"]["ports"][0][
        "nodePort"
    ]
    running = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Running")
    assert await request(running, port) is not None


async def test_ended_pod_does_not_answer(client: Client, pod: Make, service: Make):
    ready, port = await ready_pod_and_port(client, pod, service, publishNotReadyAddresses=True)
    await client.delete("pods", "p")

    async def is_silent() -> bool:
        return await request(ready, port) is None

    await client.until(is_silent)


async def test_terminating_pod_answers_until_another_is_ready(start: Start, pod: Make, service: Make):
    """Kube-proxy does this since 1.28."""
    client = await start(termination_seconds=20)
    body = service(selector={"app": "sandbox"})
    port = (await client.create("services", body)).body["spec"]["ports"][0]["nodePort"]
    await client.create("pods", pod("old"))
    ready = await client.ready("old")
    await client.delete("pods", "old")
    assert (response := await request(ready, port)) is not None
    assert response.json()["sandbox"] == "old"
    await client.create("pods", pod("new"))
    await client.ready("new")
    responses = [await request(ready, port) for _ in range(4)]
    assert {response.json()["sandbox"] for response in responses if response is not None} == {"new"}


async def test_pods_of_service_answer_in_turn(client: Client, pod: Make, service: Make):
    port = (await client.create("services", service(selector={"app": "sandbox"}))).body["spec"]["ports"][0]["nodePort"]
    for name in ("a", "b"):
        await client.create("pods", pod(name))
        await client.ready(name)
    responses = [await request(await client.ready("a"), port) for _ in range(4)]
    assert [response.json()["sandbox"] for response in responses if response] in (
        ["a", "b", "a", "b"],
        ["b", "a", "b", "a"],
    )


TARGETS = [("http", True), (8080, True), (9999, False), ("other", False)]


@pytest.mark.parametrize(("target", "is_reachable"), TARGETS)
async def test_only_declared_ports_answer(
    client: Client, pod: Make, service: Make, target: int | str, is_reachable: bool
):
    ready, port = await ready_pod_and_port(client, pod, service, ports=[{"port": 80, "targetPort": target}])
    assert (await request(ready, port) is not None) is is_reachable


async def test_full_port_range_answers_500_until_port_is_released(start: Start, service: Make):
    """A released port can be allocated at once."""
    client = await start(node_ports=(30100, 30101))
    service_body = [(await client.create("services", service(name))).status for name in ("a", "b")]
    refusal = await client.create("services", service("c"))
    assert [*service_body, refusal.status] == [201, 201, 500]
    assert refusal.body["message"] == "Internal error occurred: failed to allocate a nodePort: range is full"
    assert refusal.body["reason"] == "InternalError"
    await client.delete("services", "a")
    assert (await client.create("services", service("c"))).status == 201


async def test_refused_service_releases_its_port(start: Start, service: Make):
    client = await start(node_ports=(30100, 30100))
    assert (await client.create("services", service("a", sessionAffinity="x"))).status == 422
    assert (await client.create("services", service("a"))).status == 201
    assert (await client.create("services", service("a"))).status == 500  # the port is asked for before the name


async def test_port_of_another_process_is_skipped(start: Start, service: Make):
    client = await start(node_ports=(30100, 30101))
    [address] = (await client.call("GET", "/api/v1/nodes")).body["items"][0]["status"]["addresses"][:1]
    other = await asyncio.start_server(lambda _reader, writer: writer.close(), address["address"], 30100)
    async with other:
        assert (await client.create("services", service())).body["spec"]["ports"][0]["nodePort"] == 30101


async def test_patched_service_keeps_port_and_cluster_ip(client: Client, service: Make):
    before = (await client.create("services", service())).body["spec"]
    patch = {"spec": {"selector": {"sandbox-id": "other"}}}
    after = (await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")).body
    assert (after["spec"]["ports"], after["spec"]["clusterIP"]) == (before["ports"], before["clusterIP"])
    assert after["spec"]["selector"] == {"sandbox-id": "other"}


async def test_service_changed_to_cluster_ip_releases_its_port(start: Start, service: Make):
    client = await start(node_ports=(30100, 30100))
    await client.create("services", service("a"))
    patch = {"spec": {"type": "ClusterIP"}}
    after = (await client.call("PATCH", client.path("services", "a"), patch, "application/merge-patch+json")).body
    assert "nodePort" not in after["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in after["spec"]
    assert (await client.create("services", service("b"))).body["spec"]["ports"][0]["nodePort"] == 30100


async def test_cluster_ip_is_immutable(client: Client, service: Make):
    await client.create("services", service())
    patch = {"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}}
    response = await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")
    message = 'Service "p" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.1.1"]: may not change once set'
    assert (response.status, response.body["message"]) == (422, message)


async def test_ready_pod_is_reachable_after_proxy_delay(start: Start, pod: Make, service: Make):
    """On a real cluster, too, the port of a ready Pod can refuse connections for a moment."""
    client = await start(proxy_seconds=0.3)
    ready, port = await ready_pod_and_port(client, pod, service)
    assert await request(ready, port) is None
    assert await client.until(lambda: request(ready, port))
