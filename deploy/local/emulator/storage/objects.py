"""The objects there are, the one resourceVersion they share, and what happened to them lately.

Bodies are never changed in place: a new state is a new dict that shares what did not change. So a list, a page of an
old list and a watch event can all hold on to the same body, and each body is encoded once.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.storage.kinds import KINDS, Kind

Key = tuple[str, str]  # namespace ("" for what has none) and name: also the order of lists

FIRST_VERSION = 256  # a cluster that has just come up has written about so much; older versions are "too old"


class StoredObject:
    """One state of one object: its body without `kind` and `apiVersion`, and how that is written."""

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
        """As an item of a list."""
        if self._encoded is None:
            self._encoded = msgspec.json.encode(self.body)
        return self._encoded

    def document(self) -> bytes:
        """As an answer of its own."""
        return b'{"kind":"%s","apiVersion":"v1",%s' % (self.kind.name.encode(), self.item()[1:])

    def with_version(self, version: int) -> "StoredObject":
        return StoredObject(self.kind, self.body, version)


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is None for what was made, `after` for what was removed; `last` is then the state that went."""

    version: int
    before: StoredObject | None
    after: StoredObject | None

    @property
    def last(self) -> StoredObject:
        stored = self.after or self.before
        assert stored is not None  # noqa: S101 - a change has one of the two
        return stored


class Collection:
    """All objects of one kind, with an index by label and the recent changes."""

    def __init__(self, kind: Kind, history: int, version: int) -> None:
        self.kind = kind
        self.compacted_version = version  # the newest version whose changes are no longer all known
        self.changes: deque[Change] = deque()
        self._history = history
        self._objects: dict[str, dict[str, StoredObject]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str], dict[Key, None]] = defaultdict(dict)

    def get(self, namespace: str, name: str) -> StoredObject | None:
        return self._objects[namespace].get(name) if namespace in self._objects else None

    def all(self, namespace: str | None = None) -> Iterator[StoredObject]:
        spaces = self._objects.values() if namespace is None else [self._objects.get(namespace, {})]
        for space in spaces:
            yield from space.values()

    def with_label(self, label: tuple[str, str]) -> Iterator[StoredObject]:
        for namespace, name in self._by_label.get(label, ()):
            yield self._objects[namespace][name]

    def count_with_label(self, label: tuple[str, str]) -> int:
        return len(self._by_label.get(label, ()))

    def count(self) -> int:
        return sum(len(space) for space in self._objects.values())

    def apply(self, change: Change) -> None:
        if change.before is not None:
            self._discard(change.before)
        if change.after is not None:
            self._add(change.after)
        self.changes.append(change)
        if len(self.changes) > self._history:
            self.compacted_version = self.changes.popleft().version

    def since(self, version: int) -> list[Change]:
        """Changes after that version, oldest first; the cost follows their number."""
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
        space = self._objects[stored.namespace]
        del space[stored.name]
        if not space:
            del self._objects[stored.namespace]
        for label in stored.labels.items():
            keys = self._by_label[label]
            del keys[stored.key]
            if not keys:
                del self._by_label[label]


class Store:
    """Every collection. Whoever wants to know of changes adds a listener, called at once, in order."""

    def __init__(self, history: int) -> None:
        self.version = FIRST_VERSION
        self.listeners: list[Callable[[Change], None]] = []
        self._collections = {kind: Collection(kind, history, self.version) for kind in KINDS.values()}

    def collection(self, kind: Kind) -> Collection:
        return self._collections[kind]

    def get(self, kind: Kind, namespace: str, name: str) -> StoredObject | None:
        return self._collections[kind].get(namespace, name)

    def put(self, kind: Kind, body: Object) -> StoredObject:
        """Make or replace. A replacement that changes nothing writes nothing, as on the real server."""
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
        """The last state at the version of its removal, as the DELETED event shows it."""
        removed = stored.with_version(self._next_version())
        self._commit(Change(removed.version, stored, None))
        return removed

    def expire(self) -> None:
        """Forget all history: every version before now becomes too old."""
        self.version += 1
        for collection in self._collections.values():
            collection.expire(self.version)

    def select(self, kind: Kind, namespace: str, labels: Iterable[tuple[str, str]]) -> list[StoredObject]:
        """Those in a namespace that carry all these labels, by way of the rarest of them."""
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
