"""deploy/kubernetes as kubectl renders it: the objects of one overlay, and what follows from several of them."""

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
        (found,) = (o for o in self.all(kind) if o["metadata"]["name"] == name)
        return found

    def generated(self, kind: str, name: str) -> Object:
        """By the name that it has before kustomize adds a hash."""
        (found,) = (o for o in self.all(kind) if re.fullmatch(rf"{name}-[a-z0-9]{{10}}", o["metadata"]["name"]))
        return found

    @property
    def settings(self) -> dict[str, str]:
        data: dict[str, str] = self.generated("ConfigMap", "provisioner-settings")["data"]
        return data

    def workloads(self) -> dict[str, Object]:
        """Whatever makes Pods, by name."""
        return {o["metadata"]["name"]: o for kind in WORKLOADS for o in self.all(kind)}

    def pods(self) -> dict[str, Object]:
        """The Pod that each of them makes: its metadata and spec, with the volumes of its claims."""
        return {name: _pod(o) for name, o in self.workloads().items()}

    def containers(self) -> Iterator[tuple[str, Object]]:
        for name, pod in self.pods().items():
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                yield f"{name}/{container['name']}", container

    def environment(self, name: str) -> dict[str, str]:
        """Of the container that is called as its workload, as a node makes it: later ones win, `$(NAME)` of earlier
        ones are replaced. What a node knows of itself stays empty."""
        container = dict(self.containers())[f"{name}/{name}"]
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            found[variable["name"]] = self._value(variable, found)
        return found

    def _value(self, variable: Object, so_far: dict[str, str]) -> str:
        if "value" in variable:
            return re.sub(r"\$\((\w+)\)", lambda m: so_far.get(m[1], m[0]), variable["value"])
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
    """The one of the pinned requirements or, where there is no wheel of it, the machine's."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    found = shutil.which("kubectl", path=path)
    assert found is not None, "no kubectl: install requirements-dev.txt"
    return found


def render(overlay: Path) -> Rendering:
    done = subprocess.run([kubectl(), "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nor has it anything to warn of"
    return Rendering([o for o in yaml.safe_load_all(done.stdout) if o is not None])


def copy(to: Path, overlay: str, secret: str) -> Path:
    """An operator's own: the files, and the secret that they make. Gives the overlay's directory."""
    for part in ("kubernetes", "observability"):
        shutil.copytree(DEPLOY / part, to / part, ignore=shutil.ignore_patterns("secret.env"))
    directory = to / "kubernetes/overlays" / overlay
    (directory / "secret.env").write_text(secret)
    return directory
