"""The objects of one overlay of deploy/kubernetes, as kubectl renders them."""

import base64
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Object = dict[str, Any]

DEPLOY = Path(__file__).parents[2] / "deploy"
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


class Rendering(NamedTuple):
    objects: list[Object]

    def all(self, kind: str) -> list[Object]:
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (match,) = (o for o in self.all(kind) if o["metadata"]["name"] == name)
        return match

    def generated(self, kind: str, name: str) -> Object:
        """Return the object to whose name kustomize has added a hash."""
        (match,) = (o for o in self.all(kind) if re.fullmatch(rf"{name}-[a-z0-9]{{10}}", o["metadata"]["name"]))
        return match

    @property
    def settings(self) -> dict[str, str]:
        data: dict[str, str] = self.generated("ConfigMap", "provisioner-settings")["data"]
        return data

    def workloads(self) -> dict[str, Object]:
        """Return the objects that create Pods, by name."""
        return {o["metadata"]["name"]: o for kind in WORKLOADS for o in self.all(kind)}

    def pods(self) -> dict[str, Object]:
        """Return metadata and spec of each workload's Pod, with the volumes of its volume claims."""
        return {name: _pod(o) for name, o in self.workloads().items()}

    def containers(self) -> Iterator[tuple[str, Object]]:
        for name, pod in self.pods().items():
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                yield f"{name}/{container['name']}", container

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of the container with the name of its workload, as a kubelet computes them.

        A later variable replaces an earlier one, and `$(NAME)` refers to an earlier one. Fields of the node are empty.
        """
        container = dict(self.containers())[f"{name}/{name}"]
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            variables |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            variables[variable["name"]] = self._value(variable, variables)
        return variables

    def _value(self, variable: Object, earlier: dict[str, str]) -> str:
        if "value" in variable:
            return re.sub(r"\$\((\w+)\)", lambda m: earlier.get(m[1], m[0]), variable["value"])
        if "fieldRef" in variable["valueFrom"]:
            return ""
        reference = variable["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self.one("Secret", reference["name"])["data"][reference["key"]]).decode()


def _pod(workload: Object) -> Object:
    pod: Object = workload["spec"]["template"]
    names = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
    claims = [{"name": name, "persistentVolumeClaim": {"claimName": f"{name}-0"}} for name in names]
    return {**pod, "spec": {**pod["spec"], "volumes": [*pod["spec"].get("volumes", []), *claims]}}


def kubectl() -> str:
    """Return the path of kubectl, from the pinned requirements or, where those have no wheel, from this machine."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    command = shutil.which("kubectl", path=path)
    assert command is not None, "no kubectl: install requirements-dev.txt"
    return command


def render(overlay: Path) -> Rendering:
    done = subprocess.run([kubectl(), "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kubectl prints a warning"
    return Rendering([o for o in yaml.safe_load_all(done.stdout) if o is not None])


def copy(target: Path, overlay: str, secret: str) -> Path:
    """Copy the files and write the secret, as an operator does. Return the directory of the overlay."""
    for part in ("kubernetes", "observability"):
        shutil.copytree(DEPLOY / part, target / part, ignore=shutil.ignore_patterns("secret.env"))
    directory = target / "kubernetes/overlays" / overlay
    (directory / "secret.env").write_text(secret)
    return directory
