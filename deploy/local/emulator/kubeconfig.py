"""The kubeconfig a client needs to reach the emulator."""

import os
from pathlib import Path

import msgspec


def write(path: Path, server: str, token: str) -> None:
    """Atomically and readable by its owner alone: a reader never sees half a file, nor anyone else the token.

    JSON, which every reader of kubeconfigs takes, being YAML.
    """
    name = "emulated"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
    draft.replace(path)
