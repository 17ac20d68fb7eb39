"""Node ports, the image, and the way to a sandbox."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from deploy.doctor.findings import Verdict
from deploy.doctor.looking import Image, Node, NodeStatus
from deploy.doctor.nodes import NODE_PORTS, judge_image, judge_node_ports, reference
from deploy.local.emulator.client import Client
from deploy.local.stack import free_port
from shared.sandbox import Spec, Status, accepted
from shared.store import Change, Store
from tests.deploy.doctor.conftest import Look, made
from worker.seen import Metadata, Service, ServicePort, ServiceSpec

pytestmark = pytest.mark.anyio


async def exposed(kubernetes: Client, name: str) -> int:
    """The node port of a Service that has one."""
    answer = await kubernetes.create(
        "services", {"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    )
    port: int = answer.body["spec"]["ports"][0]["nodePort"]
    return port


async def test_node_ports_are_counted_over_all_namespaces(look: Look, kubernetes: Client):
    await made(kubernetes, "services", "inside", spec={"ports": [{"port": 80}]})
    await exposed(kubernetes, "ours")
    kubernetes.namespace = "kube-system"
    await exposed(kubernetes, "theirs")
    found = await look("node ports")
    assert (found.verdict, found.seen) == (Verdict.OK, f"{NODE_PORTS - 2} of {NODE_PORTS} left in the cluster")


@pytest.mark.parametrize(
    ("used", "verdict"), [(0, Verdict.OK), (89, Verdict.OK), (91, Verdict.WARNING), (100, Verdict.BROKEN)]
)
def test_node_ports_left(used: int, verdict: Verdict):
    services = [
        Service(metadata=Metadata(), spec=ServiceSpec(ports=(ServicePort(node_port=30000 + number), ServicePort())))
        for number in range(used)
    ]
    found = judge_node_ports(services, 100)
    assert (found.verdict, found.seen) == (verdict, f"{100 - used} of 100 left in the cluster")
    assert ("ClusterIP" in found.advice) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(("check", "resource"), [("node ports", "services"), ("image", "nodes")])
async def test_the_cluster_may_not_be_looked_at(look: Look, kubernetes: Client, check: str, resource: str):
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "list", "resource": resource})
    found = await look(check)
    assert found.verdict is Verdict.UNKNOWN
    assert found.seen.startswith("may not look: ")


@pytest.mark.parametrize("check", ["node ports", "node host"])
async def test_without_node_ports(look: Look, check: str):
    found = await look(check, SANDBOX_SERVICE_TYPE="ClusterIP")
    assert (found.verdict, found.seen) == (Verdict.OK, "not used: SANDBOX_SERVICE_TYPE is ClusterIP")


async def test_an_image_that_no_node_has(look: Look):
    found = await look("image")
    assert (found.verdict, found.seen) == (Verdict.WARNING, "sandbox:1 is seen on 0 of 1 node")
    assert "pull it beforehand" in found.advice


async def test_an_image_that_has_been_pulled(look: Look, kubernetes: Client):
    await made(kubernetes, "pods", "p", spec={"containers": [{"name": "c", "image": "sandbox:1"}]})
    await kubernetes.ready("p")
    found = await look("image")
    assert (found.verdict, found.seen) == (Verdict.OK, "sandbox:1 is on 1 node")


def node(*names: str) -> Node:
    return Node(metadata=Metadata(), status=NodeStatus(images=(Image(names=None), Image(names=names))))


def test_an_image_that_some_nodes_have():
    found = judge_image([node("docker.io/library/a:1"), node("docker.io/library/a:2")], "a:1")
    assert (found.verdict, found.seen) == (Verdict.WARNING, "a:1 is seen on 1 of 2 nodes")


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("sandbox", "docker.io/library/sandbox:latest"),
        ("me/sandbox:1", "docker.io/me/sandbox:1"),
        ("registry.example:5000/a/b", "registry.example:5000/a/b:latest"),
        ("localhost/b:2", "localhost/b:2"),
        ("a:1@sha256:00", "docker.io/library/a@sha256:00"),
    ],
)
def test_references(image: str, full: str):
    assert reference(image) == full == reference(full)


async def ready_at(redis: ArqRedis, url: str, **fields: Any) -> None:
    """A sandbox that is, as far as Redis knows."""
    record = accepted("abc", Spec(), cluster="default", now=1_750_000_000.0)
    there = replace(record, **{"status": Status.RUNNING, "ready": True, "url": url, **fields})
    await Store(redis).change("abc", lambda _: Change(there))


async def test_a_sandbox_is_reached(look: Look, kubernetes: Client, valkey: ArqRedis):
    """On NODE_HOST as it is set now, whatever the URL was made with."""
    port = kubernetes.http.base_url.port
    await ready_at(valkey, f"http://192.0.2.1:{port}")
    found = await look("node host", NODE_HOST="127.0.0.1")
    assert found.verdict is Verdict.OK
    assert found.seen.startswith(f"127.0.0.1:{port}, of a ready sandbox, answers in ")


async def test_a_sandbox_is_not_reached(look: Look, valkey: ArqRedis):
    await ready_at(valkey, f"http://127.0.0.1:{free_port()}")
    found = await look("node host")
    assert found.verdict is Verdict.BROKEN
    assert "cannot be reached" in found.seen
    assert found.advice.startswith("Set NODE_HOST to an address of a node")


async def test_a_name_that_leads_nowhere(look: Look, valkey: ArqRedis):
    await ready_at(valkey, "http://127.0.0.1:31000")
    assert (await look("node host", NODE_HOST="nowhere.invalid")).verdict is Verdict.BROKEN
    await valkey.flushall()
    found = await look("node host", NODE_HOST="nowhere.invalid")
    assert found.verdict is Verdict.WARNING
    assert "is not known here" in found.seen


@pytest.mark.usefixtures("valkey")
async def test_no_sandbox_to_try_it_on(look: Look):
    found = await look("node host")
    assert found.verdict is Verdict.UNKNOWN
    assert found.advice == "Make one, and try again."


async def test_a_sandbox_that_is_not_ready_is_not_asked(look: Look, valkey: ArqRedis):
    await ready_at(valkey, f"http://127.0.0.1:{free_port()}", ready=False)
    assert (await look("node host")).verdict is Verdict.UNKNOWN
