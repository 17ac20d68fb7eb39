"""Watches: the event of a change for each watcher, and the buffer between a write and a slow reader."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from deploy.local.emulator.storage.kinds import Kind
from deploy.local.emulator.storage.objects import Change, StoredObject
from deploy.local.emulator.storage.selectors import Selection

BACKLOG_MAX = 20_000  # events; the real server, too, ends a watch whose reader is too slow

IndexKey = tuple[str, ...]  # a name, a label, or any; watchers are found by it


def encode_event(event: str, stored: StoredObject) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (event.encode(), stored.document())


def encode_bookmark(kind: Kind, version: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata = {"resourceVersion": str(version), **({"annotations": annotations} if annotations else {})}
    body = {"kind": kind.name, "apiVersion": "v1", "metadata": metadata, **kind.bare}
    return msgspec.json.encode({"type": "BOOKMARK", "object": body}) + b"\n"


def watch_event(change: Change, selection: Selection) -> bytes | None:
    """Return the event of a change: ADDED if the object begins to match, DELETED if it ends to match.

    DELETED shows the last state that matched, at the version of the change.
    """
    matched_before = change.before is not None and selection.matches(change.before)
    if change.after is not None and selection.matches(change.after):
        return encode_event("MODIFIED" if matched_before else "ADDED", change.after)
    if matched_before and change.before is not None:
        return encode_event("DELETED", change.before.with_version(change.version))
    return None


class Watcher:
    """An open watch, and its lines to send, in order."""

    def __init__(self, selection: Selection, version: int) -> None:
        self.selection = selection
        self._version = version  # no change up to it is sent: the client knows it, or named a future version
        self.closed = False
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()

    @property
    def index_key(self) -> IndexKey:
        """A property that all its objects share, usually the last label. A write asks only the watchers of its keys."""
        if (name := self.selection.exact_name()) is not None:
            return ("name", name)
        labels = self.selection.required_labels()
        return ("label", *labels[-1]) if labels else ("any",)

    def add_change(self, change: Change) -> None:
        if change.version <= self._version:
            return
        if (event := watch_event(change, self.selection)) is not None:
            self.push(event)

    def push(self, event: bytes) -> None:
        self._lines.append(event)
        self._wake.set()
        if len(self._lines) > BACKLOG_MAX:
            self.close()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    def drain(self) -> bytes:
        lines, self._lines = self._lines, []
        return b"".join(lines)

    async def wait(self, seconds: float) -> None:
        """Wait for a line, for a call of `wake`, or until the time is over."""
        if self._lines or self.closed:
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def wake(self) -> None:
        self._wake.set()


class Watchers:
    """All open watches, by index key."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Kind, IndexKey], dict[Watcher, None]] = defaultdict(dict)

    def add(self, watcher: Watcher) -> None:
        self._by_key[watcher.selection.kind, watcher.index_key][watcher] = None

    def discard(self, watcher: Watcher) -> None:
        key = (watcher.selection.kind, watcher.index_key)
        self._by_key[key].pop(watcher, None)
        if not self._by_key[key]:
            del self._by_key[key]

    def all(self) -> list[Watcher]:
        return [watcher for watchers in self._by_key.values() for watcher in watchers]

    def on_change(self, change: Change) -> None:
        kind = change.last.kind
        for index_key in _index_keys(change):
            for watcher in self._by_key.get((kind, index_key), ()):
                watcher.add_change(change)


def _index_keys(change: Change) -> Iterable[IndexKey]:
    states = [state for state in (change.before, change.after) if state is not None]
    labels = {label for state in states for label in state.labels.items()}
    return [("any",), ("name", change.last.name), *(("label", *label) for label in labels)]
