"""What the Pods of deploy/kubernetes may do: as little as they can."""

from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from deploy.local.emulator.client import Client
from deploy.local.emulator.options import Options
from deploy.local.emulator.pod_security import ENFORCE
from deploy.local.emulator.running import run
from shared.settings import read_settings
from tests.deploy.rendering import DEPLOY
from tests.system.conftest import node_address

HOST_PATHS = ("SKILLS_HOST_PATH", "DEER_FLOW_HOST_BASE_DIR", "THREADS_HOST_PATH")


def test_each_container_is_confined_and_bounded(rendering):
    for name, container in rendering.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        for bounds in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][bounds].keys(), name


def test_each_pod_is_a_user_without_name_or_powers(rendering):
    for name, pod in rendering.pods().items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["enableServiceLinks"] is False
        for volume in pod["spec"]["volumes"]:
            assert volume.keys() <= {"name", "emptyDir", "persistentVolumeClaim"}
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), "a node's disk is not ours to fill"


def test_our_processes_are_the_user_of_the_image(rendering):
    (user,) = (line.split()[1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("USER"))
    for name in ("api", "worker"):
        security = rendering.pods()[name]["spec"]["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user


@pytest.mark.anyio
async def test_our_namespace_enforces_the_strictest_level_and_takes_our_pods(rendering, worker_id):
    """As the emulated cluster checks them: it also reads each Pod as closely as a real one."""
    namespace = rendering.one("Namespace", "deer-flow-system")
    assert namespace["metadata"]["labels"][ENFORCE] == "restricted"
    async with (
        run(Options(node_address=node_address(worker_id))) as running,
        Client(running.url, running.cluster.token, "deer-flow-system") as cluster,
    ):
        wanted = [("namespaces", namespace), *(("serviceaccounts", a) for a in rendering.all("ServiceAccount"))]
        wanted += [("pods", {"metadata": {"name": n}, "spec": p["spec"]}) for n, p in rendering.pods().items()]
        for resource, body in wanted:
            answer = await cluster.create(resource, body)
            assert answer.status == HTTPStatus.CREATED, answer.body


def test_the_sandboxes_namespace_lets_paths_of_the_node_in_only_if_there_are_any(rendering):
    settings = read_settings(rendering.environment("worker"))
    level = rendering.one("Namespace", settings.k8s_namespace)["metadata"]["labels"][ENFORCE]
    wanted = "privileged" if any(rendering.settings.get(name) for name in HOST_PATHS) else "baseline"
    assert level == wanted


def test_only_workers_have_a_way_into_the_cluster(rendering):
    for name, pod in rendering.pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is (name == "worker")
    assert not any(account["automountServiceAccountToken"] for account in rendering.all("ServiceAccount"))
    (binding,) = rendering.all("RoleBinding")
    (subject,) = binding["subjects"]
    worker = rendering.pods()["worker"]["spec"]["serviceAccountName"]
    assert (subject["kind"], subject["namespace"], subject["name"]) == ("ServiceAccount", "deer-flow-system", worker)
    assert rendering.pods()["api"]["spec"]["serviceAccountName"] != worker
    assert not rendering.all("ClusterRole")
    assert not rendering.all("ClusterRoleBinding")
    accounts = {account["metadata"]["name"] for account in rendering.all("ServiceAccount")}
    assert accounts == {"api", worker}


def test_nothing_of_ours_is_published_outside_of_the_cluster(rendering):
    for service in rendering.all("Service"):
        assert "type" not in service["spec"]
    assert not rendering.all("Ingress")


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_the_secret_is_made_by_the_operator_and_not_kept_in_git(overlay):
    kustomization = yaml.safe_load((DEPLOY / f"kubernetes/overlays/{overlay}/kustomization.yaml").read_text())
    (generator,) = kustomization["secretGenerator"]
    assert generator["envs"] == ["secret.env"]
    assert "literals" not in generator
    assert "secret.env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_no_manifest_holds_a_secret():
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        assert "kind: Secret\n" not in path.read_text(), Path(path).name
