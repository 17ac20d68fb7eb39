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


class Stored:
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
    def terminating(self) -> bool:
        return "deletionTimestamp" in self.metadata

    def item(self) -> bytes:
        """As an item of a list."""
        if self._encoded is None:
            self._encoded = msgspec.json.encode(self.body)
        return self._encoded

    def document(self) -> bytes:
        """As an answer of its own."""
        return b'{"kind":"%s","apiVersion":"v1",%s' % (self.kind.name.encode(), self.item()[1:])

    def at(self, version: int) -> "Stored":
        return Stored(self.kind, self.body, version)


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is None for what was made, `after` for what was removed; `last` is then the state that went."""

    version: int
    before: Stored | None
    after: Stored | None

    @property
    def last(self) -> Stored:
        stored = self.after or self.before
        assert stored is not None  # noqa: S101 - a change has one of the two
        return stored


class Collection:
    """All objects of one kind, with an index by label and the recent changes."""

    def __init__(self, kind: Kind, history: int, version: int) -> None:
        self.kind = kind
        self.floor = version  # the newest version whose changes are no longer all known
        self.changes: deque[Change] = deque()
        self._history = history
        self._objects: dict[str, dict[str, Stored]] = defaultdict(dict)
        self._labelled: dict[tuple[str, str], dict[Key, None]] = defaultdict(dict)

    def get(self, namespace: str, name: str) -> Stored | None:
        return self._objects[namespace].get(name) if namespace in self._objects else None

    def all(self, namespace: str | None = None) -> Iterator[Stored]:
        spaces = self._objects.values() if namespace is None else [self._objects.get(namespace, {})]
        for space in spaces:
            yield from space.values()

    def labelled(self, label: tuple[str, str]) -> Iterator[Stored]:
        for namespace, name in self._labelled.get(label, ()):
            yield self._objects[namespace][name]

    def count_labelled(self, label: tuple[str, str]) -> int:
        return len(self._labelled.get(label, ()))

    def count(self) -> int:
        return sum(len(space) for space in self._objects.values())

    def apply(self, change: Change) -> None:
        if change.before is not None:
            self._forget(change.before)
        if change.after is not None:
            self._remember(change.after)
        self.changes.append(change)
        if len(self.changes) > self._history:
            self.floor = self.changes.popleft().version

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
        self.floor = version

    def _remember(self, stored: Stored) -> None:
        self._objects[stored.namespace][stored.name] = stored
        for label in stored.labels.items():
            self._labelled[label][stored.key] = None

    def _forget(self, stored: Stored) -> None:
        space = self._objects[stored.namespace]
        del space[stored.name]
        if not space:
            del self._objects[stored.namespace]
        for label in stored.labels.items():
            keys = self._labelled[label]
            del keys[stored.key]
            if not keys:
                del self._labelled[label]


class Store:
    """Every collection. Whoever wants to know of changes adds a listener, called at once, in order."""

    def __init__(self, history: int) -> None:
        self.version = FIRST_VERSION
        self.listeners: list[Callable[[Change], None]] = []
        self._collections = {kind: Collection(kind, history, self.version) for kind in KINDS.values()}

    def of(self, kind: Kind) -> Collection:
        return self._collections[kind]

    def get(self, kind: Kind, namespace: str, name: str) -> Stored | None:
        return self._collections[kind].get(namespace, name)

    def put(self, kind: Kind, body: Object) -> Stored:
        """Make or replace. A replacement that changes nothing writes nothing, as on the real server."""
        metadata = body["metadata"]
        before = self.get(kind, metadata.get("namespace", ""), metadata["name"])
        if before is not None and before.body == {
            **body,
            "metadata": {**metadata, "resourceVersion": str(before.version)},
        }:
            return before
        after = Stored(kind, body, self._next())
        self._changed(Change(after.version, before, after))
        return after

    def remove(self, stored: Stored) -> Stored:
        """The last state at the version of its removal, as the DELETED event shows it."""
        gone = stored.at(self._next())
        self._changed(Change(gone.version, stored, None))
        return gone

    def expire(self) -> None:
        """Forget all history: every version before now becomes too old."""
        self.version += 1
        for collection in self._collections.values():
            collection.expire(self.version)

    def select(self, kind: Kind, namespace: str, labels: Iterable[tuple[str, str]]) -> list[Stored]:
        """Those in a namespace that carry all these labels, by way of the rarest of them."""
        wanted = list(labels)
        collection = self.of(kind)
        rarest = min(wanted, key=collection.count_labelled)
        return [
            stored
            for stored in collection.labelled(rarest)
            if stored.namespace == namespace and all(stored.labels.get(key) == value for key, value in wanted)
        ]

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _changed(self, change: Change) -> None:
        self.of(change.last.kind).apply(change)
        for listener in self.listeners:
            listener(change)
