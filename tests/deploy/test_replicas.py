"""How many of each deploy/kubernetes runs, and how they come and go: scaling, updates, probes."""

from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from api.__main__ import DRAIN_SECONDS
from deploy.local.stack import Options, Stack, free_port
from shared.settings import TABLE, read_settings
from tests.deploy.rendering import Rendering
from tests.system.conftest import eventually
from worker.__main__ import CLOSE_SECONDS

NAMES = {row.name for row in TABLE}


def test_dev_has_one_of_each(dev):
    assert {name: o["spec"]["replicas"] for name, o in dev.workloads().items()} == {"api": 1, "worker": 1, "redis": 1}
    assert not dev.all("HorizontalPodAutoscaler")


def test_in_prod_autoscalers_decide_alone_how_many(prod):
    """With `replicas` in the manifest, each `apply` would set them back."""
    for scaler in (*prod.all("HorizontalPodAutoscaler"), *prod.all("ScaledObject")):
        reference = scaler["spec"]["scaleTargetRef"]
        deployment = prod.one(reference["kind"], reference["name"])
        assert deployment["apiVersion"] == reference["apiVersion"]
        assert "replicas" not in deployment["spec"]
    (api,), (worker,) = prod.all("HorizontalPodAutoscaler"), prod.all("ScaledObject")
    assert (api["metadata"]["name"], worker["metadata"]["name"]) == ("api", "worker")
    assert 2 <= api["spec"]["minReplicas"] < api["spec"]["maxReplicas"]
    assert 2 <= worker["spec"]["minReplicaCount"] < worker["spec"]["maxReplicaCount"]


def test_workers_follow_the_age_of_the_queue(prod):
    (trigger,) = prod.one("ScaledObject", "worker")["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["query"] == "max(deerflow_queue_oldest_seconds)"
    assert trigger["metadata"]["ignoreNullValues"] == "false", "no figure is not an empty queue"


def test_a_budget_lets_a_node_be_drained_however_few_there_are(rendering):
    assert {o["metadata"]["name"]: o["spec"]["maxUnavailable"] for o in rendering.all("PodDisruptionBudget")} == {
        "api": 1,
        "worker": 1,
    }


def test_a_rolling_update_begins_with_a_new_one(rendering):
    for deployment in rendering.all("Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_stopping_process_has_the_time_it_takes(rendering):
    pods = rendering.pods()
    settings = read_settings(rendering.environment("worker"))
    assert pods["worker"]["spec"]["terminationGracePeriodSeconds"] >= settings.worker_shutdown_seconds + CLOSE_SECONDS
    (api,) = pods["api"]["spec"]["containers"]
    command, seconds = api["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pods["api"]["spec"]["terminationGracePeriodSeconds"] > int(seconds) + DRAIN_SECONDS


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def probes(rendering: Rendering, name: str) -> dict[str, tuple[str, int]]:
    """Probe → path and port number."""
    (container,) = rendering.pods()[name]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    asked = {probe: container[probe]["httpGet"] for probe in PROBES}
    return {probe: (get["path"], ports[get["port"]]) for probe, get in asked.items()}


def test_the_probes_ask_for_life_and_readiness(rendering):
    """What the API has last seen is worth telling while the cluster is away: it stays in its Service."""
    for name, port, ready in (("api", 8002, "/health/serving"), ("worker", 9102, "/health/ready")):
        assert probes(rendering, name) == {
            "startupProbe": ("/health", port),
            "livenessProbe": ("/health", port),
            "readinessProbe": (ready, port),
        }


@pytest.mark.anyio
async def test_the_probes_ask_what_the_processes_answer(prod, tmp_path):
    """Ready or not: only that the paths are known."""
    port = free_port()
    options = Options(workers=1, port=0, data=tmp_path, environment={"WORKER_METRICS_PORT": str(port)})
    async with Stack(options) as stack, httpx.AsyncClient() as client:
        for name, url in (("api", stack.urls[0]), ("worker", f"http://127.0.0.1:{port}")):
            for path, _ in probes(prod, name).values():
                answer = await eventually(partial(answered, client, f"{url}{path}"), f"{name} answers")
                assert answer.status_code in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}, f"{name} {path}"


async def answered(client: httpx.AsyncClient, url: str) -> httpx.Response | None:
    with suppress(httpx.TransportError):
        return await client.get(url)
    return None


def test_the_workers_port_is_the_settings(rendering):
    default = next(row.default for row in TABLE if row.name == "WORKER_METRICS_PORT")
    assert {port for _, port in probes(rendering, "worker").values()} == {default}


def test_a_worker_is_reached_from_outside_its_pod():
    """The kubelet's probes and Prometheus ask the Pod's address, where its own default does not listen."""
    settings = Path(__file__).parents[2].joinpath("deploy/kubernetes/base/settings.env").read_text().splitlines()
    assert "WORKER_METRICS_HOST=0.0.0.0" in settings
