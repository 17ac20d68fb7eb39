"""The checks of node ports, the sandbox image, and the way to a sandbox."""

from typing import Any

import pytest
from arq.connections import ArqRedis

from deploy.doctor.findings import Verdict
from deploy.doctor.inspector import Image, Node, NodeStatus
from deploy.doctor.nodes import NODE_PORTS, judge_image, judge_node_ports, reference
from deploy.local.emulator.client import Client
from deploy.local.stack import free_port
from shared.sandbox.record import Status
from shared.store.store import Store
from tests.deploy.doctor.conftest import RunCheck, create
from tests.support.records import record_of
from tests.support.store import put
from worker.kubernetes.labels import APP
from worker.kubernetes.objects import ObjectMeta

pytestmark = pytest.mark.anyio


async def create_node_port(kubernetes: Client, name: str, **labels: str) -> None:
    """Create a Service with a node port."""
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    await create(kubernetes, "services", name, metadata={"labels": labels}, spec=spec)


async def test_node_ports_are_counted_in_all_namespaces(run_check: RunCheck, kubernetes: Client):
    """Those of sandboxes count against NODE_PORT_CAPACITY, and those of all Services against the range."""
    await create(kubernetes, "services", "inside", spec={"ports": [{"port": 80}]})
    await create_node_port(kubernetes, "sandbox", app=APP)
    kubernetes.namespace = "kube-system"
    await create_node_port(kubernetes, "other")
    result = await run_check("node ports")
    counts = "sandboxes use 1 of 2768, all Services of the cluster 2"
    assert (result.verdict, result.detail) == (Verdict.OK, f"2766 left: {counts}")
    result = await run_check("node ports", NODE_PORT_CAPACITY="1")
    assert (result.verdict, result.detail) == (
        Verdict.FAILED,
        "0 left: sandboxes use 1 of 1, all Services of the cluster 2",
    )


@pytest.mark.parametrize(
    ("of_sandboxes", "of_all", "capacity", "left", "verdict"),
    [
        (0, 0, 100, 100, Verdict.OK),
        (90, 90, 100, 10, Verdict.OK),
        (91, 91, 100, 9, Verdict.WARNING),
        (100, 100, 100, 0, Verdict.FAILED),
        (101, 101, 100, 0, Verdict.FAILED),
        (0, 150, 100, 100, Verdict.OK),
        (0, NODE_PORTS - 1, 100, 1, Verdict.WARNING),
        (0, NODE_PORTS, 100, 0, Verdict.FAILED),
        (2700, 3700, 20000, 16300, Verdict.OK),
    ],
    ids=str,
)
def test_node_ports_left_decide_the_verdict(of_sandboxes: int, of_all: int, capacity: int, left: int, verdict: Verdict):
    """A capacity below the default range leaves the rest to other Services; one above it means a larger range."""
    finding = judge_node_ports(of_sandboxes, of_all, capacity)
    assert finding.verdict is verdict
    assert finding.detail.startswith(f"{left} left: ")
    assert ("ClusterIP" in finding.advice) is (verdict is not Verdict.OK)


def test_node_ports_without_capacity_are_ok():
    finding = judge_node_ports(3000, 4000, 0)
    assert (finding.verdict, finding.advice) == (Verdict.OK, "")
    assert finding.detail == "4000 used in the cluster; not limited, because NODE_PORT_CAPACITY is 0"


@pytest.mark.parametrize(("check", "resource"), [("node ports", "services"), ("image", "nodes")])
async def test_check_without_permission_is_unknown(run_check: RunCheck, kubernetes: Client, check: str, resource: str):
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "list", "resource": resource})
    result = await run_check(check)
    assert result.verdict is Verdict.UNKNOWN
    assert result.detail.startswith("these credentials lack the permission to read this: ")


@pytest.mark.parametrize("check", ["node ports", "node host"])
async def test_cluster_ip_services_need_no_node_ports(run_check: RunCheck, check: str):
    result = await run_check(check, SANDBOX_SERVICE_TYPE="ClusterIP")
    assert (result.verdict, result.detail) == (Verdict.OK, "not used: SANDBOX_SERVICE_TYPE is ClusterIP")


async def test_image_on_no_node_is_a_warning(run_check: RunCheck):
    result = await run_check("image")
    assert (result.verdict, result.detail) == (Verdict.WARNING, "sandbox:1 is reported by 0 of 1 node")
    assert "Pull the image on each node beforehand" in result.advice


async def test_image_on_each_node_is_ok(run_check: RunCheck, kubernetes: Client):
    await create(kubernetes, "pods", "p", spec={"containers": [{"name": "c", "image": "sandbox:1"}]})
    await kubernetes.ready("p")
    result = await run_check("image")
    assert (result.verdict, result.detail) == (Verdict.OK, "sandbox:1 is on 1 node")


def node(*names: str) -> Node:
    return Node(metadata=ObjectMeta(), status=NodeStatus(images=(Image(names=None), Image(names=names))))


def test_image_on_some_nodes_is_a_warning():
    finding = judge_image([node("docker.io/library/a:1"), node("docker.io/library/a:2")], "a:1")
    assert (finding.verdict, finding.detail) == (Verdict.WARNING, "a:1 is reported by 1 of 2 nodes")


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
def test_reference_is_the_full_name_of_an_image(image: str, full: str):
    assert reference(image) == full == reference(full)


async def put_ready(redis: ArqRedis, url: str, **fields: Any) -> None:
    """Write the record of a ready sandbox with this URL."""
    await put(Store(redis), record_of("abc", **{"status": Status.RUNNING, "ready": True, "url": url, **fields}))


async def test_node_host_that_leads_to_a_sandbox_is_ok(run_check: RunCheck, kubernetes: Client, valkey: ArqRedis):
    """The check uses the present NODE_HOST, not the host in the record's URL."""
    port = kubernetes.http.base_url.port
    await put_ready(valkey, f"http://192.0.2.1:{port}")
    result = await run_check("node host", NODE_HOST="127.0.0.1")
    assert result.verdict is Verdict.OK
    assert result.detail.startswith(f"127.0.0.1:{port}, a ready sandbox, answers in ")


async def test_node_host_that_leads_to_no_sandbox_fails(run_check: RunCheck, valkey: ArqRedis):
    await put_ready(valkey, f"http://127.0.0.1:{free_port()}")
    result = await run_check("node host")
    assert result.verdict is Verdict.FAILED
    assert "cannot be reached" in result.detail
    assert result.advice.startswith("Set NODE_HOST to an address of a node")


async def test_node_host_that_is_unknown_to_the_resolver_fails_or_warns(run_check: RunCheck, valkey: ArqRedis):
    """With a ready sandbox the check fails; without one it warns, because DeerFlow may run on another host."""
    await put_ready(valkey, "http://127.0.0.1:31000")
    assert (await run_check("node host", NODE_HOST="nowhere.invalid")).verdict is Verdict.FAILED
    await valkey.flushall()
    result = await run_check("node host", NODE_HOST="nowhere.invalid")
    assert result.verdict is Verdict.WARNING
    assert "cannot be resolved on this host" in result.detail


@pytest.mark.usefixtures("valkey")
async def test_node_host_without_sandbox_is_unknown(run_check: RunCheck):
    result = await run_check("node host")
    assert result.verdict is Verdict.UNKNOWN
    assert result.advice == "Create a sandbox, and try again."


async def test_node_host_ignores_a_sandbox_that_is_not_ready(run_check: RunCheck, valkey: ArqRedis):
    await put_ready(valkey, f"http://127.0.0.1:{free_port()}", ready=False)
    assert (await run_check("node host")).verdict is Verdict.UNKNOWN
