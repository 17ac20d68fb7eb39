"""Node ports: given, taken back, exhausted; and what answers on them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


async def ask(pod: dict[str, Any], port: int, path: str = "/v1/sandbox") -> httpx.Response | None:
    """None: the connection was refused."""
    try:
        async with httpx.AsyncClient(trust_env=False, verify=False) as visitor:
            return await visitor.get(f"http://{pod['status']['hostIP']}:{port}{path}")
    except httpx.TransportError:
        return None


async def published(client: Client, pod: Make, service: Make, **spec: Any) -> tuple[dict[str, Any], int]:
    await client.create("pods", pod())
    made = (await client.create("services", service(**spec))).body
    return await client.ready("p"), made["spec"]["ports"][0]["nodePort"]


async def test_a_ready_pod_answers(client: Client, pod: Make, service: Make):
    ready, port = await published(client, pod, service)
    answer = await ask(ready, port)
    assert answer is not None
    assert answer.json() == {
        "sandbox": "p",
        "uid": ready["metadata"]["uid"],
        "namespace": "default",
        "labels": ready["metadata"]["labels"],
    }
    other = await ask(ready, port, "/else")
    assert other is not None
    assert other.status_code == 404


async def test_a_connection_stays_open(client: Client, pod: Make, service: Make):
    ready, port = await published(client, pod, service)
    reader, writer = await asyncio.open_connection(ready["status"]["hostIP"], port)
    for _ in range(3):
        writer.write(b"GET /v1/sandbox HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 OK")
    await client.delete("pods", "p", {"gracePeriodSeconds": 0})
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_only_ready_pods_answer(start: Start, pod: Make, service: Make):
    client = await start(ready_seconds=30)
    await client.create("pods", pod())
    port = (await client.create("services", service())).body["spec"]["ports"][0]["nodePort"]
    running = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Running")
    assert await ask(running, port) is None


async def test_addresses_that_are_not_ready_can_be_published(start: Start, pod: Make, service: Make):
    client = await start(ready_seconds=30)
    await client.create("pods", pod())
    port = (await client.create("services", service(publishNotReadyAddresses=True))).body["spec"]["ports"][0][
        "nodePort"
    ]
    running = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Running")
    assert await ask(running, port) is not None


async def test_a_pod_that_ended_does_not_answer(client: Client, pod: Make, service: Make):
    ready, port = await published(client, pod, service, publishNotReadyAddresses=True)
    await client.delete("pods", "p")

    async def silent() -> bool:
        return await ask(ready, port) is None

    await client.until(silent)


async def test_a_dying_pod_serves_while_nobody_else_can(start: Start, pod: Make, service: Make):
    """As kube-proxy has it since 1.28: its port answers until its container ends, unless another Pod is ready."""
    client = await start(termination_seconds=20)
    body = service(selector={"app": "sandbox"})
    port = (await client.create("services", body)).body["spec"]["ports"][0]["nodePort"]
    await client.create("pods", pod("old"))
    ready = await client.ready("old")
    await client.delete("pods", "old")
    assert (answer := await ask(ready, port)) is not None
    assert answer.json()["sandbox"] == "old"
    await client.create("pods", pod("new"))
    await client.ready("new")
    answers = [await ask(ready, port) for _ in range(4)]
    assert {answer.json()["sandbox"] for answer in answers if answer is not None} == {"new"}


async def test_pods_take_turns(client: Client, pod: Make, service: Make):
    port = (await client.create("services", service(selector={"app": "sandbox"}))).body["spec"]["ports"][0]["nodePort"]
    for name in ("a", "b"):
        await client.create("pods", pod(name))
        ready = await client.ready(name)
    answers = [await ask(ready, port) for _ in range(4)]
    assert [answer.json()["sandbox"] for answer in answers if answer] in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


TARGETS = [("http", True), (8080, True), (9999, False), ("other", False)]


@pytest.mark.parametrize(("target", "answers"), TARGETS)
async def test_only_declared_ports_listen(client: Client, pod: Make, service: Make, target: int | str, answers: bool):
    ready, port = await published(client, pod, service, ports=[{"port": 80, "targetPort": target}])
    assert (await ask(ready, port) is not None) is answers


async def test_the_range_runs_out(start: Start, service: Make):
    """The answer is a 500, and a port that comes free can be had at once."""
    client = await start(node_ports=(30100, 30101))
    made = [(await client.create("services", service(name))).status for name in ("a", "b")]
    full = await client.create("services", service("c"))
    assert [*made, full.status] == [201, 201, 500]
    assert full.body["message"] == "Internal error occurred: failed to allocate a nodePort: range is full"
    assert full.body["reason"] == "InternalError"
    await client.delete("services", "a")
    assert (await client.create("services", service("c"))).status == 201


async def test_a_service_that_is_refused_keeps_no_port(start: Start, service: Make):
    client = await start(node_ports=(30100, 30100))
    assert (await client.create("services", service("a", sessionAffinity="x"))).status == 422
    assert (await client.create("services", service("a"))).status == 201
    assert (await client.create("services", service("a"))).status == 500  # the port is asked for before the name


async def test_a_port_that_something_else_holds_is_passed_over(start: Start, service: Make):
    client = await start(node_ports=(30100, 30101))
    [address] = (await client.call("GET", "/api/v1/nodes")).body["items"][0]["status"]["addresses"][:1]
    other = await asyncio.start_server(lambda _reader, writer: writer.close(), address["address"], 30100)
    async with other:
        assert (await client.create("services", service())).body["spec"]["ports"][0]["nodePort"] == 30101


async def test_a_port_is_kept_through_a_patch(client: Client, service: Make):
    before = (await client.create("services", service())).body["spec"]
    patch = {"spec": {"selector": {"sandbox-id": "other"}}}
    after = (await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")).body
    assert (after["spec"]["ports"], after["spec"]["clusterIP"]) == (before["ports"], before["clusterIP"])
    assert after["spec"]["selector"] == {"sandbox-id": "other"}


async def test_a_service_drawn_back_inside_gives_its_port_back(start: Start, service: Make):
    client = await start(node_ports=(30100, 30100))
    await client.create("services", service("a"))
    patch = {"spec": {"type": "ClusterIP"}}
    after = (await client.call("PATCH", client.path("services", "a"), patch, "application/merge-patch+json")).body
    assert "nodePort" not in after["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in after["spec"]
    assert (await client.create("services", service("b"))).body["spec"]["ports"][0]["nodePort"] == 30100


async def test_a_cluster_ip_does_not_change(client: Client, service: Make):
    await client.create("services", service())
    patch = {"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}}
    answer = await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")
    words = 'Service "p" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.1.1"]: may not change once set'
    assert (answer.status, answer.body["message"]) == (422, words)


async def test_the_proxy_takes_its_time(start: Start, pod: Make, service: Make):
    """A Pod that is ready is not yet reached: on a real cluster, too, its port may refuse for a moment."""
    client = await start(proxy_seconds=0.3)
    ready, port = await published(client, pod, service)
    assert await ask(ready, port) is None
    assert await client.until(lambda: ask(ready, port))
