"""Replicas, scaling, rolling updates and probes of deploy/kubernetes."""

from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from api.__main__ import DRAIN_SECONDS
from deploy.local.stack import Options, Stack, free_port
from shared.settings import TABLE, read_settings
from tests.deploy.rendering import Rendering
from tests.support.eventually import eventually
from tests.support.http import response_or_none
from worker.__main__ import CLOSE_SECONDS

NAMES = {row.name for row in TABLE}


def test_dev_runs_one_replica_of_each(dev):
    assert {name: o["spec"]["replicas"] for name, o in dev.workloads().items()} == {"api": 1, "worker": 1, "redis": 1}
    assert not dev.all("HorizontalPodAutoscaler")


def test_autoscaled_deployments_have_no_replicas(prod):
    """With `replicas` in the manifest, each `kubectl apply` would reset the number."""
    for scaler in (*prod.all("HorizontalPodAutoscaler"), *prod.all("ScaledObject")):
        reference = scaler["spec"]["scaleTargetRef"]
        deployment = prod.one(reference["kind"], reference["name"])
        assert deployment["apiVersion"] == reference["apiVersion"]
        assert "replicas" not in deployment["spec"]
    (api,), (worker,) = prod.all("HorizontalPodAutoscaler"), prod.all("ScaledObject")
    assert (api["metadata"]["name"], worker["metadata"]["name"]) == ("api", "worker")
    assert 2 <= api["spec"]["minReplicas"] < api["spec"]["maxReplicas"]
    assert 2 <= worker["spec"]["minReplicaCount"] < worker["spec"]["maxReplicaCount"]


def test_workers_scale_by_the_age_of_the_queue(prod):
    (trigger,) = prod.one("ScaledObject", "worker")["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["query"] == "max(deerflow_queue_oldest_seconds)"
    assert trigger["metadata"]["ignoreNullValues"] == "false", "a missing value does not mean an empty queue"


def test_disruption_budgets_allow_a_drain_of_any_node(rendering):
    assert {o["metadata"]["name"]: o["spec"]["maxUnavailable"] for o in rendering.all("PodDisruptionBudget")} == {
        "api": 1,
        "worker": 1,
    }


def test_rolling_updates_start_a_new_pod_first(rendering):
    for deployment in rendering.all("Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_stopping_pod_has_time_to_finish(rendering):
    pods = rendering.pods()
    settings = read_settings(rendering.environment("worker"))
    assert pods["worker"]["spec"]["terminationGracePeriodSeconds"] >= settings.worker_shutdown_seconds + CLOSE_SECONDS
    (api,) = pods["api"]["spec"]["containers"]
    command, seconds = api["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pods["api"]["spec"]["terminationGracePeriodSeconds"] > int(seconds) + DRAIN_SECONDS


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def probes(rendering: Rendering, name: str) -> dict[str, tuple[str, int]]:
    """Return path and port number of each probe."""
    (container,) = rendering.pods()[name]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    requests = {probe: container[probe]["httpGet"] for probe in PROBES}
    return {probe: (get["path"], ports[get["port"]]) for probe, get in requests.items()}


def test_probes_use_the_endpoints_for_liveness_and_readiness(rendering):
    """No probe of the API depends on Redis: while Redis is away, the API stays in its Service and answers 503."""
    for name, port in (("api", 8002), ("worker", 9102)):
        assert probes(rendering, name) == {
            "startupProbe": ("/health", port),
            "livenessProbe": ("/health", port),
            "readinessProbe": ("/health/ready", port),
        }


@pytest.mark.anyio
async def test_probed_endpoints_exist_in_both_processes(prod, tmp_path):
    """A process may be ready or not."""
    port = free_port()
    options = Options(workers=1, port=0, data=tmp_path, environment={"WORKER_METRICS_PORT": str(port)})
    async with Stack(options) as stack, httpx.AsyncClient() as client:
        for name, url in (("api", stack.urls[0]), ("worker", f"http://127.0.0.1:{port}")):
            for path, _ in probes(prod, name).values():
                response = await eventually(
                    partial(response_or_none, client, f"{url}{path}"), f"{name} answers", seconds=60
                )
                assert response.status_code in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}, f"{name} {path}"


def test_port_of_a_worker_is_the_default_of_the_setting(rendering):
    default = next(row.default for row in TABLE if row.name == "WORKER_METRICS_PORT")
    assert {port for _, port in probes(rendering, "worker").values()} == {default}


def test_worker_listens_on_the_address_of_its_pod():
    """The kubelet and Prometheus use that address. By default a worker listens on loopback only."""
    settings = Path(__file__).parents[2].joinpath("deploy/kubernetes/base/settings.env").read_text().splitlines()
    assert "WORKER_METRICS_HOST=0.0.0.0" in settings
