"""Garbage collection: what belonged to an object that is gone goes too, a moment later."""

import asyncio
from collections import defaultdict

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.storage.kinds import KINDS, Kind
from deploy.local.emulator.storage.objects import Change, Key, Store, Stored

_KIND_OF_NAME = {kind.name: kind for kind in KINDS.values()}
Place = tuple[Kind, Key]


class GarbageCollector:
    """Remembers who names which owner, by uid, and looks again a moment after an owner went."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._owned: dict[str, dict[Place, None]] = defaultdict(dict)

    def on_change(self, change: Change) -> None:
        if change.before is not None:
            self._unlink(change.before)
        if change.after is not None:
            self._link(change.after, new=change.before is None)
        elif change.last.uid in self._owned:
            for place in list(self._owned[change.last.uid]):
                self._look_later(place)

    def _link(self, stored: Stored, *, new: bool) -> None:
        for reference in stored.metadata.get("ownerReferences", []):
            self._owned[reference["uid"]][stored.kind, stored.key] = None
            if new and not self._lives(reference, stored.namespace):
                self._look_later((stored.kind, stored.key))

    def _unlink(self, stored: Stored) -> None:
        for reference in stored.metadata.get("ownerReferences", []):
            places = self._owned[reference["uid"]]
            places.pop((stored.kind, stored.key), None)
            if not places:
                del self._owned[reference["uid"]]

    def _look_later(self, place: Place) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._look, place)

    def _look(self, place: Place) -> None:
        kind, key = place
        stored = self._store.get(kind, *key)
        if stored is None or stored.terminating:
            return
        references = stored.metadata.get("ownerReferences", [])
        living = [reference for reference in references if self._lives(reference, stored.namespace)]
        if references and not living:
            deletion.collect(self._store, stored)
        elif len(living) < len(references):
            self._keep_owners(stored, living)

    def _keep_owners(self, stored: Stored, kept: list[Object]) -> None:
        metadata = {key: value for key, value in stored.metadata.items() if key != "ownerReferences"}
        if kept:
            metadata["ownerReferences"] = kept
        self._store.put(stored.kind, {**stored.body, "metadata": metadata})

    def orphan(self, uid: str) -> None:
        """The owner is deleted, but what it owned shall stay: nobody owns it any more."""
        for kind, key in list(self._owned.get(uid, ())):
            if (stored := self._store.get(kind, *key)) is not None:
                kept = [reference for reference in stored.metadata["ownerReferences"] if reference["uid"] != uid]
                self._keep_owners(stored, kept)

    def _lives(self, reference: Object, namespace: str) -> bool:
        """As the real collector sees it: an object of that kind and name, in this namespace, with that uid.

        An owner of a kind that is not emulated is taken for a living one.
        """
        kind = _KIND_OF_NAME.get(reference["kind"])
        if kind is None or reference["apiVersion"] != "v1":
            return True
        owner = self._store.get(kind, namespace if kind.namespaced else "", reference["name"])
        return owner is not None and owner.uid == reference["uid"]
