"""deploy/kubernetes: the objects of each overlay are valid, and agree with each other and with the product."""

import copy
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest
import yaml

from shared.settings import TABLE, ServiceType, read_settings
from tests.deploy.conftest import EXTERNAL_REDIS, RUNBOOKS
from tests.deploy.foreign import KINDS, validate
from tests.deploy.rendering import DEPLOY, Object

VERSIONS = ("1.28", "1.37")
"""The oldest and the newest supported Kubernetes."""
NAMES = {row.name for row in TABLE}


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid(rendering, isolated, version):
    for each in [*rendering.objects, *isolated.all("NetworkPolicy")]:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            validate(each)


def test_scaled_object_results_in_a_valid_autoscaler(prod):
    """KEDA creates a HorizontalPodAutoscaler with the behaviour of the ScaledObject."""
    (scaled_object,) = prod.all("ScaledObject")
    autoscaler = copy.deepcopy(prod.one("HorizontalPodAutoscaler", "api"))
    autoscaler["spec"]["behavior"] = scaled_object["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
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
def test_custom_resource_with_a_mistake_is_invalid(prod, kind, path, value):
    resource = inner = copy.deepcopy(prod.all(kind)[0])
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises((msgspec.ValidationError, KeyError)):
        validate(resource)


def test_custom_resources_are_only_in_prod(dev, prod):
    assert not {f"{o['apiVersion']} {o['kind']}" for o in dev.objects} & KINDS.keys()
    assert {f"{o['apiVersion']} {o['kind']}" for o in prod.objects} >= KINDS.keys()


def test_objects_are_in_the_namespaces_of_the_rendering(rendering):
    namespaces = {o["metadata"]["name"] for o in rendering.all("Namespace")}
    assert namespaces == {"deer-flow-system", rendering.settings["K8S_NAMESPACE"]}
    assert {o["metadata"]["namespace"] for o in rendering.objects if o["kind"] != "Namespace"} == namespaces


def test_quota_and_role_are_in_the_namespace_of_the_sandboxes(rendering):
    for kind in ("ResourceQuota", "Role", "RoleBinding"):
        (resource,) = rendering.all(kind)
        assert resource["metadata"]["namespace"] == rendering.settings["K8S_NAMESPACE"]


def test_workloads_select_only_their_own_pods(rendering):
    pods = rendering.pods()
    for name, workload in rendering.workloads().items():
        assert selected(pods, workload["spec"]["selector"]["matchLabels"]) == [name]
        for spread in pods[name]["spec"].get("topologySpreadConstraints", []):
            assert selected(pods, spread["labelSelector"]["matchLabels"]) == [name]


def test_services_budgets_and_monitors_select_existing_pods(rendering):
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


def test_config_map_holds_settings_and_no_secret(rendering):
    secrets = {row.name for row in TABLE if row.secret}
    assert rendering.settings.keys() <= NAMES - secrets
    for name in ("api", "worker"):
        assert rendering.environment(name).keys() <= NAMES | {"REDIS_PASSWORD"}


def test_settings_are_valid_for_both_processes(rendering):
    api, worker = (read_settings(rendering.environment(name)) for name in ("api", "worker"))
    assert api.provisioner_api_key == "a-key"
    assert worker.provisioner_api_key == "", "a worker does not need it"
    for name in rendering.settings:
        assert getattr(api, name.lower()) == getattr(worker, name.lower())


def test_redis_url_is_that_of_the_overlay(dev, prod, changed):
    for name in ("api", "worker"):
        for rendered in (dev, prod):
            assert rendered.environment(name)["REDIS_URL"] == "redis://:a-password@redis:6379/0"
        assert f"REDIS_URL={changed.environment(name)['REDIS_URL']}\n" in EXTERNAL_REDIS
    assert "redis" not in changed.workloads()


def test_sandboxes_have_node_ports_only_in_dev(dev, prod):
    assert read_settings(dev.environment("worker")).sandbox_service_type is ServiceType.NODE_PORT
    assert read_settings(prod.environment("worker")).sandbox_service_type is ServiceType.CLUSTER_IP
    node_host = next(
        v for c, k in dev.containers() if c == "worker/worker" for v in k["env"] if v["name"] == "NODE_HOST"
    )
    assert node_host["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"


def test_redis_keeps_every_record(dev, prod):
    """A full Redis refuses writes and drops no key, long before the memory limit of its container."""
    for rendered in (dev, prod):
        (container,) = rendered.pods()["redis"]["spec"]["containers"]
        command = " ".join(container["args"])
        assert "--appendonly yes" in command
        assert "--maxmemory-policy noeviction" in command
        assert "--maxmemory 192mb" in command
        assert container["resources"]["limits"]["memory"] == "512Mi", (
            "more than twice maxmemory, for rewriting the file"
        )
    assert "volumeClaimTemplates" in prod.one("StatefulSet", "redis")["spec"]
    assert "volumeClaimTemplates" not in dev.one("StatefulSet", "redis")["spec"]
    assert [v["name"] for v in dev.pods()["redis"]["spec"]["volumes"]] == ["data"]


def test_redis_image_is_the_same_as_in_compose(dev):
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose-dev.yaml").read_text())
    assert dict(dev.containers())["redis/redis"]["image"] == compose["services"]["redis"]["image"]


def test_mounted_volumes_exist(rendering):
    for name, pod in rendering.pods().items():
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == {v["name"] for v in pod["spec"]["volumes"]}, name


def test_image_is_the_same_for_both_processes_and_has_a_version(rendering):
    images = {name: container["image"] for name, container in rendering.containers()}
    assert images["api/api"] == images["worker/worker"]
    for name, image in images.items():
        if name != "pre-puller/image":
            assert ":" in image.rpartition("/")[2]
            assert not image.endswith(":latest")


def test_pre_puller_uses_the_sandbox_image(dev, prod, changed):
    assert "pre-puller" not in dev.workloads()
    for rendered in (prod, changed):
        (container,) = rendered.pods()["pre-puller"]["spec"]["containers"]
        assert container["image"] == read_settings(rendered.environment("worker")).sandbox_image
        assert container["imagePullPolicy"] == "IfNotPresent"
    assert changed.pods()["pre-puller"]["spec"]["containers"][0]["image"] == "registry.example.com/sandbox:7"


def test_sandbox_image_is_the_default_of_the_setting(prod):
    assert prod.settings["SANDBOX_IMAGE"] == next(row.default for row in TABLE if row.name == "SANDBOX_IMAGE")


def test_prod_contains_rules_and_dashboard(prod):
    (rules,) = prod.all("PrometheusRule")
    assert rules["metadata"]["namespace"] == "deer-flow-system"
    dashboard = prod.one("ConfigMap", "provisioner-dashboard")
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert dashboard["data"].keys() == {"dashboard.json"}


def test_alerts_link_to_the_runbooks_where_operators_publish_them(prod, changed):
    for rendered, start in ((prod, "docs/runbooks.md"), (changed, RUNBOOKS)):
        (rules,) = rendered.all("PrometheusRule")
        alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        assert alerts
        for alert in alerts:
            assert alert["annotations"]["runbook_url"] == f"{start}#{alert['alert'].lower()}"


def test_renderings_use_every_component():
    """Without this test, a new component could stay untested."""
    overlays = [
        yaml.safe_load(path.read_text()) for path in (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml")
    ]
    listed = {Path(component).name for overlay in overlays for component in overlay["components"]}
    assert {path.name for path in (DEPLOY / "kubernetes/components").iterdir()} == listed | {
        "external-redis",
        "sandbox-network",
    }
