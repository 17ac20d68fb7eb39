"""Namespaces: their creation, and their deletion with all content."""

import asyncio
from random import Random

from deploy.local.emulator.base.ids import uid
from deploy.local.emulator.base.statuses import Object, forbidden, not_found
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.storage.kinds import KINDS, NAMESPACES, SERVICE_ACCOUNTS, Kind
from deploy.local.emulator.storage.objects import Change, Store, StoredObject

NAME_LABEL = "kubernetes.io/metadata.name"


def fill_namespace(body: Object) -> Object:
    metadata = body["metadata"]
    labels = {**metadata.get("labels", {}), NAME_LABEL: metadata.get("name", "")}
    return {
        **body,
        "metadata": {**metadata, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def admit(store: Store, kind: Kind, namespace: str, name: str) -> None:
    """Refuse a new object if its namespace is missing or terminating, as the NamespaceLifecycle plugin does."""
    stored = store.get(NAMESPACES, "", namespace)
    if stored is None:
        raise not_found("namespaces", namespace)
    if stored.is_terminating:
        detail = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
        raise forbidden(kind.resource, name, detail, [{**cause, "field": "metadata.namespace"}])


class NamespaceController:
    """Creates namespaces with their service account, and removes a terminating namespace once it is empty."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random

    def create(self, name: str) -> None:
        metadata = {"name": name, "uid": uid(self._random), "creationTimestamp": now()}
        self._store.put(NAMESPACES, fill_namespace({"metadata": metadata, "spec": {}, "status": {}}))

    def on_change(self, change: Change) -> None:
        if change.last.kind is NAMESPACES and change.after is not None:
            if change.before is None:
                self._create_account(change.after.name)
            elif change.after.is_terminating and not change.before.is_terminating:
                asyncio.get_running_loop().call_soon(self._empty, change.after.name)
        elif change.after is None and change.last.kind.namespaced:
            self._finish_later(change.last.namespace)

    def _create_account(self, namespace: str) -> None:
        metadata = {"name": "default", "namespace": namespace, "uid": uid(self._random), "creationTimestamp": now()}
        self._store.put(SERVICE_ACCOUNTS, {"metadata": metadata})

    def _empty(self, namespace: str) -> None:
        for kind in KINDS.values():
            if kind.namespaced:
                for stored in list(self._store.collection(kind).all(namespace)):
                    deletion.collect(self._store, stored)
        self._finish(namespace)

    def _finish_later(self, name: str) -> None:
        if self._terminating(name) is not None:
            asyncio.get_running_loop().call_soon(self._finish, name)

    def _finish(self, name: str) -> None:
        namespace = self._terminating(name)
        collections = (self._store.collection(kind).all(name) for kind in KINDS.values() if kind.namespaced)
        if namespace is not None and all(next(objects, None) is None for objects in collections):
            self._store.remove(namespace)

    def _terminating(self, name: str) -> StoredObject | None:
        namespace = self._store.get(NAMESPACES, "", name)
        return namespace if namespace is not None and namespace.is_terminating else None
