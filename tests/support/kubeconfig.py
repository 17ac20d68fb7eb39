"""Kubeconfig files as a test prepares them."""

from typing import Any

import msgspec


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
