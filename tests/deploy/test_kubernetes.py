"""deploy/kubernetes: each overlay renders, is valid, and its objects agree with each other and with the product."""

import copy
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest
import yaml

from shared.settings import TABLE, ServiceType, read_settings
from tests.deploy.conftest import ANOTHERS_REDIS
from tests.deploy.foreign import KINDS, must_be_valid
from tests.deploy.rendering import DEPLOY, Object

VERSIONS = ("1.28", "1.37")
"""Of Kubernetes: the oldest and the newest that are meant."""
NAMES = {row.name for row in TABLE}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid(rendering, version):
    for found in rendering.objects:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            must_be_valid(found)


def test_what_the_autoscaler_of_others_passes_on_is_valid(prod):
    """Of a ScaledObject, KEDA makes a HorizontalPodAutoscaler with this behaviour."""
    (scaled,) = prod.all("ScaledObject")
    autoscaler = copy.deepcopy(prod.one("HorizontalPodAutoscaler", "api"))
    autoscaler["spec"]["behavior"] = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for version in VERSIONS:
        kubernetes_validate.validate(autoscaler, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("PodMonitor", ("spec", "podMetricsEndpoint"), []),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "port"), 9102),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "15"),
        ("PrometheusRule", ("spec", "rules"), []),
        ("ScaledObject", ("spec", "minReplicas"), 2),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 2),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "ignoreNullValue"), "false"),
        ("ScaledObject", ("apiVersion",), "keda.sh/v1"),
    ],
    ids=str,
)
def test_slips_in_kinds_of_others_are_found(prod, kind, path, value):
    slipped = inner = copy.deepcopy(prod.all(kind)[0])
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises((msgspec.ValidationError, KeyError)):
        must_be_valid(slipped)


def test_only_prod_needs_what_a_bare_cluster_has_not(dev, prod):
    assert not {f"{o['apiVersion']} {o['kind']}" for o in dev.objects} & KINDS.keys()
    assert {f"{o['apiVersion']} {o['kind']}" for o in prod.objects} >= KINDS.keys()


def test_each_object_stands_in_a_namespace_that_is_made_with_it(rendering):
    made = {o["metadata"]["name"] for o in rendering.all("Namespace")}
    assert made == {"deer-flow-system", rendering.settings["K8S_NAMESPACE"]}
    assert {o["metadata"]["namespace"] for o in rendering.objects if o["kind"] != "Namespace"} == made


def test_the_quota_and_the_role_are_of_the_sandboxes_namespace(rendering):
    for kind in ("ResourceQuota", "Role", "RoleBinding"):
        (found,) = rendering.all(kind)
        assert found["metadata"]["namespace"] == rendering.settings["K8S_NAMESPACE"]


def test_each_workload_selects_its_own_pods_and_no_others(rendering):
    pods = rendering.pods()
    for name, workload in rendering.workloads().items():
        assert selected(pods, workload["spec"]["selector"]["matchLabels"]) == [name]
        for spread in pods[name]["spec"].get("topologySpreadConstraints", []):
            assert selected(pods, spread["labelSelector"]["matchLabels"]) == [name]


def test_services_budgets_and_monitors_are_for_pods_that_there_are(rendering):
    pods = rendering.pods()
    ports = {
        name: {p["name"] for c in pod["spec"]["containers"] for p in c.get("ports", [])} for name, pod in pods.items()
    }
    for service in rendering.all("Service"):
        (name,) = selected(pods, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[name]
    for monitor in rendering.all("PodMonitor"):
        (name,) = selected(pods, monitor["spec"]["selector"]["matchLabels"])
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports[name]
    for budget in rendering.all("PodDisruptionBudget"):
        assert selected(pods, budget["spec"]["selector"]["matchLabels"]) == [budget["metadata"]["name"]]


def selected(pods: dict[str, Object], labels: dict[str, str]) -> list[str]:
    return [name for name, pod in pods.items() if labels.items() <= pod["metadata"]["labels"].items()]


def test_each_setting_is_one_and_none_of_them_is_a_secret(rendering):
    secret = {row.name for row in TABLE if row.secret}
    assert rendering.settings.keys() <= NAMES - secret
    for name in ("api", "worker"):
        assert rendering.environment(name).keys() <= NAMES | {"REDIS_PASSWORD"}


def test_both_processes_start_with_these_settings(rendering):
    api, worker = (read_settings(rendering.environment(name)) for name in ("api", "worker"))
    assert api.provisioner_api_key == "a-key"
    assert worker.provisioner_api_key == "", "it has no use for it"
    for name in rendering.settings:
        assert getattr(api, name.lower()) == getattr(worker, name.lower())


def test_redis_is_the_one_of_the_overlay(dev, prod, changed):
    for name in ("api", "worker"):
        for rendered in (dev, prod):
            assert rendered.environment(name)["REDIS_URL"] == "redis://:a-password@redis:6379/0"
        assert f"REDIS_URL={changed.environment(name)['REDIS_URL']}\n" in ANOTHERS_REDIS
    assert "redis" not in changed.workloads()


def test_sandboxes_have_node_ports_in_dev_and_names_in_prod(dev, prod):
    assert read_settings(dev.environment("worker")).sandbox_service_type is ServiceType.NODE_PORT
    assert read_settings(prod.environment("worker")).sandbox_service_type is ServiceType.CLUSTER_IP
    node_host = next(
        v for c, k in dev.containers() if c == "worker/worker" for v in k["env"] if v["name"] == "NODE_HOST"
    )
    assert node_host["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"


def test_redis_keeps_every_record(dev, prod):
    """It would rather refuse a write than drop a key, and long before the node ends it for its memory."""
    for rendered in (dev, prod):
        (container,) = rendered.pods()["redis"]["spec"]["containers"]
        command = " ".join(container["args"])
        assert "--appendonly yes" in command
        assert "--maxmemory-policy noeviction" in command
        assert "--maxmemory 192mb" in command
        assert container["resources"]["limits"]["memory"] == "512Mi", "twice that, for rewriting the file, and some"
    assert "volumeClaimTemplates" in prod.one("StatefulSet", "redis")["spec"]
    assert "volumeClaimTemplates" not in dev.one("StatefulSet", "redis")["spec"]
    assert [v["name"] for v in dev.pods()["redis"]["spec"]["volumes"]] == ["data"]


def test_redis_is_of_the_version_that_compose_has(dev):
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose-dev.yaml").read_text())
    assert dict(dev.containers())["redis/redis"]["image"] == compose["services"]["redis"]["image"]


def test_each_volume_that_is_mounted_is_there(rendering):
    for name, pod in rendering.pods().items():
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == {v["name"] for v in pod["spec"]["volumes"]}, name


def test_the_image_is_one_for_both_and_of_a_version(rendering):
    images = {name: container["image"] for name, container in rendering.containers()}
    assert images["api/api"] == images["worker/worker"]
    for name, image in images.items():
        if name != "pre-puller/image":
            assert ":" in image.rpartition("/")[2]
            assert not image.endswith(":latest")


def test_the_pre_puller_pulls_what_sandboxes_run(dev, prod, changed):
    assert "pre-puller" not in dev.workloads()
    for rendered in (prod, changed):
        (container,) = rendered.pods()["pre-puller"]["spec"]["containers"]
        assert container["image"] == read_settings(rendered.environment("worker")).sandbox_image
        assert container["imagePullPolicy"] == "IfNotPresent"
    assert changed.pods()["pre-puller"]["spec"]["containers"][0]["image"] == "registry.example.com/sandbox:7"


def test_the_image_of_sandboxes_is_the_default_unless_changed(prod):
    assert prod.settings["SANDBOX_IMAGE"] == next(row.default for row in TABLE if row.name == "SANDBOX_IMAGE")


def test_what_the_dashboard_and_the_rules_are_made_from_is_there(prod):
    (rules,) = prod.all("PrometheusRule")
    assert rules["metadata"]["namespace"] == "deer-flow-system"
    dashboard = prod.one("ConfigMap", "provisioner-dashboard")
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert dashboard["data"].keys() == {"dashboard.json"}


def test_each_component_is_in_one_of_these_renderings():
    """So that what is said of the renderings is said of every file."""
    overlays = [
        yaml.safe_load(path.read_text()) for path in (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml")
    ]
    listed = {Path(component).name for overlay in overlays for component in overlay["components"]}
    assert {path.name for path in (DEPLOY / "kubernetes/components").iterdir()} == listed | {"external-redis"}
