"""Node ports, the image, and the way to a sandbox."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from deploy.doctor.findings import Verdict
from deploy.doctor.inspector import Image, Node, NodeStatus
from deploy.doctor.nodes import NODE_PORTS, judge_image, judge_node_ports, reference
from deploy.local.emulator.client import Client
from deploy.local.stack import free_port
from shared.sandbox.record import Spec, Status
from shared.sandbox.transitions import new_record
from shared.store.store import Store
from shared.store.update import Update
from tests.deploy.doctor.conftest import Look, made
from worker.kubernetes.labels import APP
from worker.kubernetes.objects import ObjectMeta

pytestmark = pytest.mark.anyio


async def exposed(kubernetes: Client, name: str, **labels: str) -> None:
    """A Service that has a node port."""
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    await made(kubernetes, "services", name, metadata={"labels": labels}, spec=spec)


async def test_node_ports_are_counted_over_all_namespaces(look: Look, kubernetes: Client):
    """Sandboxes' against what they may take, and everybody's against the range."""
    await made(kubernetes, "services", "inside", spec={"ports": [{"port": 80}]})
    await exposed(kubernetes, "ours", app=APP)
    kubernetes.namespace = "kube-system"
    await exposed(kubernetes, "theirs")
    found = await look("node ports")
    told = "sandboxes have 1 of 2768, all Services of the cluster 2"
    assert (found.verdict, found.seen) == (Verdict.OK, f"2766 left: {told}")
    found = await look("node ports", NODE_PORT_CAPACITY="1")
    assert (found.verdict, found.seen) == (
        Verdict.BROKEN,
        "0 left: sandboxes have 1 of 1, all Services of the cluster 2",
    )


@pytest.mark.parametrize(
    ("ours", "everywhere", "capacity", "left", "verdict"),
    [
        (0, 0, 100, 100, Verdict.OK),
        (90, 90, 100, 10, Verdict.OK),
        (91, 91, 100, 9, Verdict.WARNING),
        (100, 100, 100, 0, Verdict.BROKEN),
        (101, 101, 100, 0, Verdict.BROKEN),
        (0, 150, 100, 100, Verdict.OK),
        (0, NODE_PORTS - 1, 100, 1, Verdict.WARNING),
        (0, NODE_PORTS, 100, 0, Verdict.BROKEN),
        (2700, 3700, 20000, 16300, Verdict.OK),
    ],
    ids=str,
)
def test_node_ports_left(ours: int, everywhere: int, capacity: int, left: int, verdict: Verdict):
    """A setting below the default range leaves the rest to others; one above it says that the range is wider."""
    found = judge_node_ports(ours, everywhere, capacity)
    assert found.verdict is verdict
    assert found.seen.startswith(f"{left} left: ")
    assert ("ClusterIP" in found.advice) is (verdict is not Verdict.OK)


def test_node_ports_that_are_not_counted():
    found = judge_node_ports(3000, 4000, 0)
    assert (found.verdict, found.advice) == (Verdict.OK, "")
    assert found.seen == "4000 taken in the cluster; not counted, for NODE_PORT_CAPACITY is 0"


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
    return Node(metadata=ObjectMeta(), status=NodeStatus(images=(Image(names=None), Image(names=names))))


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
    record = new_record("abc", Spec(), cluster="default", now=1_750_000_000.0)
    there = replace(record, **{"status": Status.RUNNING, "ready": True, "url": url, **fields})
    await Store(redis).change("abc", lambda _: Update(there))


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
