"""Pods of deploy/kubernetes run with minimal rights."""

from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from deploy.local.emulator.admission.pod_security import ENFORCE
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.client import Client
from deploy.local.emulator.runner import run
from shared.settings import read_settings
from tests.deploy.rendering import DEPLOY
from tests.support.emulator import SYSTEM_TESTS, node_address

HOST_PATHS = ("SKILLS_HOST_PATH", "DEER_FLOW_HOST_BASE_DIR", "THREADS_HOST_PATH")


def test_containers_have_no_privileges_and_have_limits(rendering):
    for name, container in rendering.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        for bounds in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][bounds].keys(), name


def test_pods_run_as_a_user_that_is_not_root(rendering):
    for name, pod in rendering.pods().items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["enableServiceLinks"] is False
        for volume in pod["spec"]["volumes"]:
            assert volume.keys() <= {"name", "emptyDir", "persistentVolumeClaim"}
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), (
                "a volume without limit could fill the disk of a node"
            )


def test_api_and_worker_run_as_the_user_of_the_image(rendering):
    (user,) = (line.split()[1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("USER"))
    for name in ("api", "worker"):
        security = rendering.pods()[name]["spec"]["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user


@pytest.mark.anyio
async def test_system_namespace_is_restricted_and_accepts_all_pods(rendering, worker_id):
    """The emulated cluster validates each Pod, and applies Pod Security like a real one."""
    namespace = rendering.one("Namespace", "deer-flow-system")
    assert namespace["metadata"]["labels"][ENFORCE] == "restricted"
    async with (
        run(Options(node_address=node_address(worker_id, SYSTEM_TESTS))) as running,
        Client(running.url, running.cluster.token, "deer-flow-system") as cluster,
    ):
        objects = [("namespaces", namespace), *(("serviceaccounts", a) for a in rendering.all("ServiceAccount"))]
        objects += [("pods", {"metadata": {"name": n}, "spec": p["spec"]}) for n, p in rendering.pods().items()]
        for resource, body in objects:
            response = await cluster.create(resource, body)
            assert response.status == HTTPStatus.CREATED, response.body


def test_namespace_of_sandboxes_is_privileged_only_with_host_paths(rendering):
    settings = read_settings(rendering.environment("worker"))
    level = rendering.one("Namespace", settings.k8s_namespace)["metadata"]["labels"][ENFORCE]
    expected = "privileged" if any(rendering.settings.get(name) for name in HOST_PATHS) else "baseline"
    assert level == expected


def test_only_workers_have_credentials_for_the_cluster(rendering):
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


def test_no_service_is_reachable_from_outside_the_cluster(rendering):
    for service in rendering.all("Service"):
        assert "type" not in service["spec"]
    assert not rendering.all("Ingress")


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_secret_comes_from_a_file_that_git_ignores(overlay):
    kustomization = yaml.safe_load((DEPLOY / f"kubernetes/overlays/{overlay}/kustomization.yaml").read_text())
    (generator,) = kustomization["secretGenerator"]
    assert generator["envs"] == ["secret.env"]
    assert "literals" not in generator
    assert "secret.env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_manifests_contain_no_secret():
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        assert "kind: Secret\n" not in path.read_text(), Path(path).name
