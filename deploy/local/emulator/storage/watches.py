"""Watches: which change is which event for whom, and the buffer between a write and a slow reader."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from deploy.local.emulator.storage.kinds import Kind
from deploy.local.emulator.storage.objects import Change, Stored
from deploy.local.emulator.storage.selectors import Selection

BACKLOG_MAX = 20_000  # events; the real server also ends a watch whose reader does not keep up

Hook = tuple[str, ...]  # what a change must carry to concern a watcher


def line(event: str, stored: Stored) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (event.encode(), stored.document())


def bookmark(kind: Kind, version: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata = {"resourceVersion": str(version), **({"annotations": annotations} if annotations else {})}
    body = {"kind": kind.name, "apiVersion": "v1", "metadata": metadata, **kind.bare}
    return msgspec.json.encode({"type": "BOOKMARK", "object": body}) + b"\n"


def event_of(change: Change, selection: Selection) -> bytes | None:
    """An object that stops matching is DELETED for this watcher, one that starts to is ADDED.

    The state shown as DELETED is the last that matched, at the version of the change.
    """
    was = change.before is not None and selection.matches(change.before)
    if change.after is not None and selection.matches(change.after):
        return line("MODIFIED" if was else "ADDED", change.after)
    if was and change.before is not None:
        return line("DELETED", change.before.at(change.version))
    return None


class Watcher:
    """One open watch: lines to send, in order."""

    def __init__(self, selection: Selection, after: int) -> None:
        self.selection = selection
        self.after = after  # changes up to this version are known to the client, or not yet written at all
        self.closed = False
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()

    @property
    def hook(self) -> Hook:
        """One thing all its objects share, so that a write does not ask every watcher: the last label, as a rule."""
        if (name := self.selection.only_name()) is not None:
            return ("name", name)
        labels = self.selection.equal_labels()
        return ("label", *labels[-1]) if labels else ("any",)

    def offer(self, change: Change) -> None:
        if change.version <= self.after:
            return
        if (event := event_of(change, self.selection)) is not None:
            self.push(event)

    def push(self, event: bytes) -> None:
        self._lines.append(event)
        self._wake.set()
        if len(self._lines) > BACKLOG_MAX:
            self.close()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    def take(self) -> bytes:
        lines, self._lines = self._lines, []
        return b"".join(lines)

    async def wait(self, seconds: float) -> None:
        """Until there is something to take, `wake` was called, or so long."""
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
    """All open watches, found by hook."""

    def __init__(self) -> None:
        self._hooked: dict[tuple[Kind, Hook], dict[Watcher, None]] = defaultdict(dict)

    def add(self, watcher: Watcher) -> None:
        self._hooked[watcher.selection.kind, watcher.hook][watcher] = None

    def discard(self, watcher: Watcher) -> None:
        place = (watcher.selection.kind, watcher.hook)
        self._hooked[place].pop(watcher, None)
        if not self._hooked[place]:
            del self._hooked[place]

    def all(self) -> list[Watcher]:
        return [watcher for place in self._hooked.values() for watcher in place]

    def on_change(self, change: Change) -> None:
        kind = change.last.kind
        for hook in _hooks(change):
            for watcher in self._hooked.get((kind, hook), ()):
                watcher.offer(change)


def _hooks(change: Change) -> Iterable[Hook]:
    states = [state for state in (change.before, change.after) if state is not None]
    labels = {label for state in states for label in state.labels.items()}
    return [("any",), ("name", change.last.name), *(("label", *label) for label in labels)]
