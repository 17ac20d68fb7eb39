"""Kubeconfig files as a test prepares them, and a real exec plugin."""

import sys
from pathlib import Path
from typing import Any

import msgspec

API_VERSION = "client.authentication.k8s.io/v1"
PLUGIN = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
with (here / "runs").open("a") as runs:
    runs.write("x")
status = (here / "status").read_text()
if status == "broken":
    sys.exit("no token today")
if status == "rubbish":
    print("no credential")
    sys.exit(0)
print(json.dumps({
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": json.loads(status),
}))
"""


def kubeconfig(user: dict[str, Any], **cluster: Any) -> bytes:
    """Return a kubeconfig with one user, for the cluster at https://localhost:6443. `cluster` adds to its fields."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://localhost:6443", **cluster}}],
        "users": [{"name": "c", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    return msgspec.json.encode(config)


class KubeconfigFile:
    """A kubeconfig in a directory, beside the files that its credentials come from. `cluster` adds to its cluster."""

    def __init__(self, directory: Path, **cluster: Any) -> None:
        self.directory = directory
        self.path = directory / "config"
        self.token = directory / "token"
        self._cluster = cluster

    def write(self, user: dict[str, Any], **cluster: Any) -> None:
        """Write the file. A dash in a field's name is written as an underscore here."""
        fields = {**self._cluster, **cluster}
        self.path.write_bytes(kubeconfig(user, **{name.replace("_", "-"): value for name, value in fields.items()}))

    def write_plugin(self, status: dict[str, Any] | str, **fields: Any) -> None:
        """Write a plugin that prints this status, and a kubeconfig that calls the plugin."""
        (self.directory / "plugin.py").write_text(PLUGIN)
        self.set_status(status)
        plugin = {"apiVersion": API_VERSION, "command": sys.executable, "args": [str(self.directory / "plugin.py")]}
        self.write({"exec": {**plugin, "interactiveMode": "Never", **fields}})

    def set_status(self, status: dict[str, Any] | str) -> None:
        """Let the plugin print this status from now on. `broken` and `rubbish` make it fail."""
        text = status if isinstance(status, str) else msgspec.json.encode(status).decode()
        (self.directory / "status").write_text(text)

    def plugin_runs(self) -> int:
        return len((self.directory / "runs").read_text())
