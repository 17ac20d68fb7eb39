"""Garbage collection: deletes the dependents of a removed owner after a delay."""

import asyncio
from collections import defaultdict

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.storage.kinds import KINDS, Kind
from deploy.local.emulator.storage.objects import Change, Key, Store, StoredObject

_KIND_OF_NAME = {kind.name: kind for kind in KINDS.values()}
ObjectKey = tuple[Kind, Key]


class GarbageCollector:
    """Indexes dependents by the uid of their owners, and checks them after an owner was removed."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._dependents: dict[str, dict[ObjectKey, None]] = defaultdict(dict)

    def on_change(self, change: Change) -> None:
        if change.before is not None:
            self._unindex(change.before)
        if change.after is not None:
            self._index(change.after, is_new=change.before is None)
        elif change.last.uid in self._dependents:
            for dependent in list(self._dependents[change.last.uid]):
                self._check_later(dependent)

    def _index(self, stored: StoredObject, *, is_new: bool) -> None:
        for reference in stored.metadata.get("ownerReferences", []):
            self._dependents[reference["uid"]][stored.kind, stored.key] = None
            if is_new and not self._owner_exists(reference, stored.namespace):
                self._check_later((stored.kind, stored.key))

    def _unindex(self, stored: StoredObject) -> None:
        for reference in stored.metadata.get("ownerReferences", []):
            dependents = self._dependents[reference["uid"]]
            dependents.pop((stored.kind, stored.key), None)
            if not dependents:
                del self._dependents[reference["uid"]]

    def _check_later(self, dependent: ObjectKey) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._check_owners, dependent)

    def _check_owners(self, dependent: ObjectKey) -> None:
        kind, key = dependent
        stored = self._store.get(kind, *key)
        if stored is None or stored.is_terminating:
            return
        references = stored.metadata.get("ownerReferences", [])
        existing = [reference for reference in references if self._owner_exists(reference, stored.namespace)]
        if references and not existing:
            deletion.collect(self._store, stored)
        elif len(existing) < len(references):
            self._set_owners(stored, existing)

    def _set_owners(self, stored: StoredObject, owners: list[Object]) -> None:
        metadata = {key: value for key, value in stored.metadata.items() if key != "ownerReferences"}
        if owners:
            metadata["ownerReferences"] = owners
        self._store.put(stored.kind, {**stored.body, "metadata": metadata})

    def orphan_dependents(self, uid: str) -> None:
        """Remove the references to an owner, so that its dependents outlive it."""
        for kind, key in list(self._dependents.get(uid, ())):
            if (stored := self._store.get(kind, *key)) is not None:
                owners = [reference for reference in stored.metadata["ownerReferences"] if reference["uid"] != uid]
                self._set_owners(stored, owners)

    def _owner_exists(self, reference: Object, namespace: str) -> bool:
        """Return True if an object of that kind, name and uid exists in this namespace, as the real collector checks.

        An owner of a kind that is not emulated counts as existing.
        """
        kind = _KIND_OF_NAME.get(reference["kind"])
        if kind is None or reference["apiVersion"] != "v1":
            return True
        owner = self._store.get(kind, namespace if kind.namespaced else "", reference["name"])
        return owner is not None and owner.uid == reference["uid"]
