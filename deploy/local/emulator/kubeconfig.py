"""The kubeconfig for clients of the emulator."""

import os
from pathlib import Path

import msgspec


def write(path: Path, server: str, token: str) -> None:
    """Write the file atomically, with mode 0600: no reader gets half a file, no other user gets the token.

    The file is JSON, which is also YAML.
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
