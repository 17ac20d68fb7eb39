"""Connections that the NetworkPolicies of deploy/kubernetes allow."""

import pytest

from shared.settings import read_settings
from tests.deploy.network_policies import Peer, matches, may_reach
from tests.deploy.rendering import Rendering
from worker.kubernetes.labels import APP

SYSTEM = "deer-flow-system"


def component(name: str) -> Peer:
    labels = {"app.kubernetes.io/name": "deer-flow-provisioner", "app.kubernetes.io/component": name}
    return Peer(SYSTEM, labels)


API, WORKER, REDIS, PRE_PULLER = component("api"), component("worker"), component("redis"), component("pre-puller")
SANDBOX = Peer("deer-flow", {"app": APP})
STRANGER = Peer("deer-flow", {"app.kubernetes.io/component": "worker"})
"""A Pod in another namespace with the label of a worker."""
DEERFLOW = Peer("deerflow", {"app": "gateway"})
PROMETHEUS = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})
KUBERNETES = None


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        (REDIS, REDIS, 6379, False),
        (PRE_PULLER, REDIS, 6379, False),
        (SANDBOX, REDIS, 6379, False),
        (STRANGER, REDIS, 6379, False),
        (DEERFLOW, REDIS, 6379, False),
        (PROMETHEUS, REDIS, 6379, False),
        (DEERFLOW, API, 8002, True),
        (PROMETHEUS, API, 8002, True),
        (SANDBOX, API, 8002, False),
        (PROMETHEUS, WORKER, 9102, True),
        (DEERFLOW, WORKER, 9102, False),
        (SANDBOX, WORKER, 9102, False),
        (WORKER, SANDBOX, 8080, True),
        (WORKER, DEERFLOW, 8080, False),
        (API, SANDBOX, 8080, False),
        *((WORKER, KUBERNETES, port, True) for port in (443, 6443, 8443, 16443)),
        (API, KUBERNETES, 6443, False),
        (API, KUBERNETES, 443, False),
        (REDIS, KUBERNETES, 443, False),
        (PRE_PULLER, KUBERNETES, 443, False),
    ],
)
def test_connection_is_allowed_or_denied(rendering, source, target, port, allowed):
    assert may_reach(rendering.all("NetworkPolicy"), source, target, port) is allowed


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        (DEERFLOW, SANDBOX, 8080, True),
        (DEERFLOW, SANDBOX, 22, False),
        (WORKER, SANDBOX, 8080, True),
        (STRANGER, SANDBOX, 8080, False),
        (SANDBOX, SANDBOX, 8080, False),
        (PROMETHEUS, SANDBOX, 8080, False),
        (SANDBOX, DEERFLOW, 8001, False),
        (SANDBOX, API, 8002, False),
        (SANDBOX, KUBERNETES, 53, True),
        *((SANDBOX, address, 443, True) for address in ("93.184.216.34", "2606:2800::1")),
        *((SANDBOX, address, 443, False) for address in ("10.96.0.1", "172.18.0.2", "192.168.1.1", "fd00::1")),
        *((SANDBOX, address, 80, False) for address in ("169.254.169.254", "100.100.100.200", "fe80::a9fe:a9fe")),
    ],
)
def test_isolated_sandbox_reaches_the_internet_and_is_reached_by_deerflow(isolated, source, target, port, allowed):
    assert may_reach(isolated.all("NetworkPolicy"), source, target, port) is allowed


def test_isolated_sandbox_accepts_the_port_of_the_settings(isolated):
    settings = read_settings(isolated.environment("worker"))
    sandbox = Peer(settings.k8s_namespace, {"app": APP})
    assert may_reach(isolated.all("NetworkPolicy"), WORKER, sandbox, settings.sandbox_container_port)


@pytest.mark.parametrize("source", [API, WORKER])
def test_redis_of_the_component_is_reachable_for_api_and_workers(dev, prod, source):
    for rendered in (dev, prod):
        assert may_reach(rendered.all("NetworkPolicy"), source, REDIS, 6379)


def test_external_redis_is_reachable_only_without_the_component(dev, prod, changed):
    for rendered, outside in ((dev, False), (prod, False), (changed, True)):
        for source in (API, WORKER):
            assert may_reach(rendered.all("NetworkPolicy"), source, None, 6379) is outside


def test_node_ports_are_reachable_only_in_dev(dev, prod):
    assert may_reach(dev.all("NetworkPolicy"), WORKER, None, 31000)
    assert not may_reach(prod.all("NetworkPolicy"), WORKER, None, 31000)


def test_dns_is_reachable_for_api_and_workers(rendering):
    policies = rendering.all("NetworkPolicy")
    assert may_reach(policies, API, None, 53)
    assert may_reach(policies, WORKER, None, 53)
    assert not may_reach(policies, PRE_PULLER, None, 53)


def test_policies_use_namespace_and_port_of_the_settings(rendering):
    settings = read_settings(rendering.environment("worker"))
    sandbox = Peer(settings.k8s_namespace, {"app": APP})
    policies = rendering.all("NetworkPolicy")
    assert may_reach(policies, WORKER, sandbox, settings.sandbox_container_port)
    assert not may_reach(policies, sandbox, API, 8002)


def test_policies_select_existing_pods(rendering: Rendering):
    pods = [pod["metadata"]["labels"] for pod in rendering.pods().values()]
    for policy in rendering.all("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        assert any(matches(selector, labels) for labels in pods), policy["metadata"]["name"]
        assert policy["metadata"]["namespace"] == SYSTEM
