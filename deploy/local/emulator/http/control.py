"""The control API below `/emulator/`: faults, counts of requests, lost objects, expired versions."""

from typing import Any

import msgspec

from deploy.local.emulator.base.statuses import bad_request, method_not_allowed, not_found
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage.kinds import KINDS

PREFIX = "/emulator/"


class _ObjectName(msgspec.Struct):
    resource: str
    namespace: str
    name: str


def handle(cluster: Cluster, method: str, path: str, body: bytes) -> Any | None:
    """Return the response, to be encoded as JSON. None: the path does not exist."""
    match path.removeprefix(PREFIX):
        case "faults":
            return _faults(cluster, method, body)
        case "calls":
            return _calls(cluster, method)
        case "lose" if method == "POST":
            return _lose(cluster, body)
        case "expire" if method == "POST":
            cluster.store.expire()
            return {"resourceVersion": str(cluster.store.version)}
    return None


def _faults(cluster: Cluster, method: str, body: bytes) -> Any:
    if method not in {"GET", "PUT", "DELETE"}:
        raise method_not_allowed()
    if method != "GET":
        cluster.faults.replace(body if method == "PUT" else b"[]")
        for watcher in cluster.watchers.all():
            watcher.wake()
    return cluster.faults.describe()


def _calls(cluster: Cluster, method: str) -> Any:
    counts = dict(sorted(cluster.faults.calls.items()))
    if method == "DELETE":
        cluster.faults.calls.clear()
    return counts


def _lose(cluster: Cluster, body: bytes) -> Any:
    """Remove an object with its containers at once, as a forced deletion does."""
    try:
        target = msgspec.json.decode(body, type=_ObjectName)
    except msgspec.DecodeError as error:
        raise bad_request(f"invalid body of lose: {error}") from error
    kind = KINDS.get(target.resource)
    stored = cluster.store.get(kind, target.namespace, target.name) if kind else None
    if stored is None:
        raise not_found(target.resource, target.name)
    return {"resourceVersion": str(cluster.store.remove(stored).version)}
