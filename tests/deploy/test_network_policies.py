"""Who talks to whom in the namespace of deploy/kubernetes."""

import pytest

from shared.settings import read_settings
from tests.deploy.network_policies import Peer, matches, may_reach
from tests.deploy.rendering import Rendering
from worker.kubernetes.labels import APP

OURS = "deer-flow-system"


def ours(component: str) -> Peer:
    labels = {"app.kubernetes.io/name": "deer-flow-provisioner", "app.kubernetes.io/component": component}
    return Peer(OURS, labels)


API, WORKER, REDIS, PULLER = ours("api"), ours("worker"), ours("redis"), ours("pre-puller")
SANDBOX = Peer("deer-flow", {"app": APP})
STRANGER = Peer("deer-flow", {"app.kubernetes.io/component": "worker"})
"""Not of our namespace, whatever it calls itself."""
DEERFLOW = Peer("deerflow", {"app": "gateway"})
PROMETHEUS = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})
KUBERNETES = None


@pytest.mark.parametrize(
    ("source", "target", "port", "may"),
    [
        (REDIS, REDIS, 6379, False),
        (PULLER, REDIS, 6379, False),
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
        (WORKER, KUBERNETES, 6443, True),
        (API, KUBERNETES, 6443, False),
        (API, KUBERNETES, 443, False),
        (REDIS, KUBERNETES, 443, False),
        (PULLER, KUBERNETES, 443, False),
    ],
)
def test_who_may_reach_whom(rendering, source, target, port, may):
    assert may_reach(rendering.all("NetworkPolicy"), source, target, port) is may


@pytest.mark.parametrize("source", [API, WORKER])
def test_our_redis_is_for_those_two(dev, prod, source):
    for rendered in (dev, prod):
        assert may_reach(rendered.all("NetworkPolicy"), source, REDIS, 6379)


def test_a_redis_outside_of_the_cluster_may_be_reached_where_there_is_none_inside(dev, prod, changed):
    for rendered, outside in ((dev, False), (prod, False), (changed, True)):
        for source in (API, WORKER):
            assert may_reach(rendered.all("NetworkPolicy"), source, None, 6379) is outside


def test_node_ports_may_be_reached_where_sandboxes_have_them(dev, prod):
    assert may_reach(dev.all("NetworkPolicy"), WORKER, None, 31000)
    assert not may_reach(prod.all("NetworkPolicy"), WORKER, None, 31000)


def test_names_may_be_looked_up_by_those_who_know_any(rendering):
    policies = rendering.all("NetworkPolicy")
    assert may_reach(policies, API, None, 53)
    assert may_reach(policies, WORKER, None, 53)
    assert not may_reach(policies, PULLER, None, 53)


def test_the_policies_know_the_sandboxes_as_the_settings_do(rendering):
    """Their namespace and port stand in policies too."""
    settings = read_settings(rendering.environment("worker"))
    sandbox = Peer(settings.k8s_namespace, {"app": APP})
    policies = rendering.all("NetworkPolicy")
    assert may_reach(policies, WORKER, sandbox, settings.sandbox_container_port)
    assert not may_reach(policies, sandbox, API, 8002)


def test_each_policy_selects_pods_that_there_are(rendering: Rendering):
    pods = [pod["metadata"]["labels"] for pod in rendering.pods().values()]
    for policy in rendering.all("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        assert any(matches(selector, labels) for labels in pods), policy["metadata"]["name"]
        assert policy["metadata"]["namespace"] == OURS
