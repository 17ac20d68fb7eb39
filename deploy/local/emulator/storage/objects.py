"""The stored objects, the resourceVersion that they share, and their recent changes.

Bodies are never changed in place. A new state is a new dict that shares its unchanged parts with the old one. Lists,
pages of old lists and watch events can share a body, and each body is encoded once.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.storage.kinds import KINDS, Kind

Key = tuple[str, str]  # namespace ("" for cluster-scoped kinds) and name

FIRST_VERSION = 256  # about the version of a real cluster after its start; older versions are "too old"


class StoredObject:
    """A state of an object. The body has no `kind` and no `apiVersion`."""

    __slots__ = ("_encoded", "body", "key", "kind", "labels", "uid", "version")

    def __init__(self, kind: Kind, body: Object, version: int) -> None:
        metadata = body["metadata"]
        self.kind = kind
        self.body = {**body, "metadata": {**metadata, "resourceVersion": str(version)}}
        self.version = version
        self.key: Key = (metadata.get("namespace", ""), metadata["name"])
        self.labels: dict[str, str] = metadata.get("labels", {})
        self.uid: str = metadata["uid"]
        self._encoded: bytes | None = None

    @property
    def namespace(self) -> str:
        return self.key[0]

    @property
    def name(self) -> str:
        return self.key[1]

    @property
    def metadata(self) -> Object:
        metadata: Object = self.body["metadata"]
        return metadata

    @property
    def is_terminating(self) -> bool:
        return "deletionTimestamp" in self.metadata

    def item(self) -> bytes:
        """Return the JSON as an item of a list."""
        if self._encoded is None:
            self._encoded = msgspec.json.encode(self.body)
        return self._encoded

    def document(self) -> bytes:
        """Return the JSON as a response."""
        return b'{"kind":"%s","apiVersion":"v1",%s' % (self.kind.name.encode(), self.item()[1:])

    def with_version(self, version: int) -> "StoredObject":
        return StoredObject(self.kind, self.body, version)


@dataclass(frozen=True, slots=True)
class Change:
    """A write. `before` is None after a create; `after` is None after a removal."""

    version: int
    before: StoredObject | None
    after: StoredObject | None

    @property
    def last(self) -> StoredObject:
        """The new state, or the removed one."""
        stored = self.after or self.before
        assert stored is not None  # noqa: S101 - a change has at least one state
        return stored


class Collection:
    """All objects of one kind, an index by label, and the recent changes."""

    def __init__(self, kind: Kind, history: int, version: int) -> None:
        self.kind = kind
        self.compacted_version = version  # changes after this version are all known
        self.changes: deque[Change] = deque()
        self._history = history
        self._objects: dict[str, dict[str, StoredObject]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str], dict[Key, None]] = defaultdict(dict)

    def get(self, namespace: str, name: str) -> StoredObject | None:
        return self._objects[namespace].get(name) if namespace in self._objects else None

    def all(self, namespace: str | None = None) -> Iterator[StoredObject]:
        groups = self._objects.values() if namespace is None else [self._objects.get(namespace, {})]
        for objects in groups:
            yield from objects.values()

    def with_label(self, label: tuple[str, str]) -> Iterator[StoredObject]:
        for namespace, name in self._by_label.get(label, ()):
            yield self._objects[namespace][name]

    def count_with_label(self, label: tuple[str, str]) -> int:
        return len(self._by_label.get(label, ()))

    def apply(self, change: Change) -> None:
        if change.before is not None:
            self._discard(change.before)
        if change.after is not None:
            self._add(change.after)
        self.changes.append(change)
        if len(self.changes) > self._history:
            self.compacted_version = self.changes.popleft().version

    def since(self, version: int) -> list[Change]:
        """Return the changes after that version, oldest first. The cost depends on their number only."""
        newer = []
        for change in reversed(self.changes):
            if change.version <= version:
                break
            newer.append(change)
        return newer[::-1]

    def expire(self, version: int) -> None:
        self.changes.clear()
        self.compacted_version = version

    def _add(self, stored: StoredObject) -> None:
        self._objects[stored.namespace][stored.name] = stored
        for label in stored.labels.items():
            self._by_label[label][stored.key] = None

    def _discard(self, stored: StoredObject) -> None:
        objects = self._objects[stored.namespace]
        del objects[stored.name]
        if not objects:
            del self._objects[stored.namespace]
        for label in stored.labels.items():
            keys = self._by_label[label]
            del keys[stored.key]
            if not keys:
                del self._by_label[label]


class Store:
    """All collections. Listeners are called in order with each change, before the write returns."""

    def __init__(self, history: int) -> None:
        self.version = FIRST_VERSION
        self.listeners: list[Callable[[Change], None]] = []
        self._collections = {kind: Collection(kind, history, self.version) for kind in KINDS.values()}

    def collection(self, kind: Kind) -> Collection:
        return self._collections[kind]

    def get(self, kind: Kind, namespace: str, name: str) -> StoredObject | None:
        return self._collections[kind].get(namespace, name)

    def put(self, kind: Kind, body: Object) -> StoredObject:
        """Create or replace an object. An equal body writes nothing, as on the real server."""
        metadata = body["metadata"]
        before = self.get(kind, metadata.get("namespace", ""), metadata["name"])
        if before is not None and before.body == {
            **body,
            "metadata": {**metadata, "resourceVersion": str(before.version)},
        }:
            return before
        after = StoredObject(kind, body, self._next_version())
        self._commit(Change(after.version, before, after))
        return after

    def remove(self, stored: StoredObject) -> StoredObject:
        """Remove an object. Return its last state at the version of the removal, as the DELETED event shows it."""
        removed = stored.with_version(self._next_version())
        self._commit(Change(removed.version, stored, None))
        return removed

    def expire(self) -> None:
        """Drop all history. All versions before this moment become too old."""
        self.version += 1
        for collection in self._collections.values():
            collection.expire(self.version)

    def select(self, kind: Kind, namespace: str, labels: Iterable[tuple[str, str]]) -> list[StoredObject]:
        """Return the objects of a namespace with all these labels. The rarest label limits the search."""
        requirements = list(labels)
        collection = self.collection(kind)
        rarest = min(requirements, key=collection.count_with_label)
        return [
            stored
            for stored in collection.with_label(rarest)
            if stored.namespace == namespace and all(stored.labels.get(key) == value for key, value in requirements)
        ]

    def _next_version(self) -> int:
        self.version += 1
        return self.version

    def _commit(self, change: Change) -> None:
        self.collection(change.last.kind).apply(change)
        for listener in self.listeners:
            listener(change)
