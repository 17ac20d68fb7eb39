"""Namespaces: what a new one holds, and how one empties before it goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deploy.local.emulator.base.identities import uid
from deploy.local.emulator.base.statuses import Object, forbidden, not_found
from deploy.local.emulator.base.times import now
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.storage.kinds import ACCOUNTS, KINDS, NAMESPACES, Kind

if TYPE_CHECKING:
    from deploy.local.emulator.lifecycle.cluster import Cluster
    from deploy.local.emulator.storage.objects import Change, Stored

NAME_LABEL = "kubernetes.io/metadata.name"


def make(cluster: Cluster, name: str) -> Stored:
    metadata = {"name": name, "uid": uid(cluster.random), "creationTimestamp": now()}
    return cluster.store.put(NAMESPACES, fill_namespace({"metadata": metadata, "spec": {}, "status": {}}))


def fill_namespace(body: Object) -> Object:
    metadata = body["metadata"]
    labels = {**metadata.get("labels", {}), NAME_LABEL: metadata.get("name", "")}
    return {
        **body,
        "metadata": {**metadata, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def admit(cluster: Cluster, kind: Kind, namespace: str, name: str) -> None:
    """Nothing is made in a namespace that is not there, or no longer (the NamespaceLifecycle plugin)."""
    found = cluster.store.get(NAMESPACES, "", namespace)
    if found is None:
        raise not_found("namespaces", namespace)
    if found.terminating:
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
        raise forbidden(kind.resource, name, why, [{**cause, "field": "metadata.namespace"}])


def on_change(cluster: Cluster, change: Change) -> None:
    if change.last.kind is NAMESPACES and change.after is not None:
        if change.before is None:
            _make_account(cluster, change.after.name)
        elif change.after.terminating and not change.before.terminating:
            _empty_later(cluster, change.after.name)
    elif change.after is None and change.last.kind.namespaced:
        _finish_later(cluster, change.last.namespace)


def _make_account(cluster: Cluster, namespace: str) -> None:
    metadata = {"name": "default", "namespace": namespace, "uid": uid(cluster.random), "creationTimestamp": now()}
    cluster.store.put(ACCOUNTS, {"metadata": metadata})


def _empty_later(cluster: Cluster, namespace: str) -> None:
    asyncio.get_running_loop().call_soon(_empty, cluster, namespace)


def _empty(cluster: Cluster, namespace: str) -> None:
    for kind in KINDS.values():
        if kind.namespaced:
            for stored in list(cluster.store.of(kind).all(namespace)):
                deletion.collect(cluster, stored)
    _finish(cluster, namespace)


def _finish_later(cluster: Cluster, namespace: str) -> None:
    found = cluster.store.get(NAMESPACES, "", namespace)
    if found is not None and found.terminating:
        asyncio.get_running_loop().call_soon(_finish, cluster, namespace)


def _finish(cluster: Cluster, namespace: str) -> None:
    found = cluster.store.get(NAMESPACES, "", namespace)
    spaces = (cluster.store.of(kind).all(namespace) for kind in KINDS.values() if kind.namespaced)
    if found is not None and found.terminating and all(next(space, None) is None for space in spaces):
        cluster.store.remove(found)
