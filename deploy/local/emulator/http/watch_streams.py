"""An open watch over HTTP: its lines, bookmarks, timeout and faults."""

import asyncio
import time

import msgspec
from aiohttp import web

from deploy.local.emulator.base.faults import FaultTarget, Rule
from deploy.local.emulator.base.statuses import ApiError, expired, forbidden_value, invalid
from deploy.local.emulator.http.request_info import Query, RequestInfo
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import paging
from deploy.local.emulator.storage.selectors import Selection
from deploy.local.emulator.storage.watches import Watcher, encode_bookmark, encode_event

_STALL_POLL_SECONDS = 0.05  # pause between two checks of a stalled watch
_TIMEOUT_SECONDS = 1800.0  # the real server takes a random time of 30 to 60 minutes
_GONE = 410
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


def open_watch(cluster: Cluster, info: RequestInfo, query: Query) -> Watcher:
    """Open a watch, with all missed changes in its buffer.

    Raises:
        ApiError: 410, the version is too old.
    """
    selection, version = query.selection(info), query.number("resourceVersion") or 0
    collection, store = cluster.store.collection(info.kind), cluster.store
    sends_initial = _sends_initial(query)
    watcher = Watcher(selection, version if version and not sends_initial else store.version)
    if not version or sends_initial:
        _send_initial_state(watcher, cluster, selection)
    elif version < collection.compacted_version:
        raise expired(f"too old resource version: {version} ({collection.compacted_version})")
    else:
        for change in collection.since(version):
            watcher.add_change(change)
    if sends_initial and query.flag("allowWatchBookmarks"):
        watcher.push(encode_bookmark(info.kind, store.version, _INITIAL_EVENTS_END))
    cluster.watchers.add(watcher)
    return watcher


def _sends_initial(query: Query) -> bool:
    if not query.flag("sendInitialEvents"):
        return False
    if query.parameters.get("resourceVersionMatch") != "NotOlderThan":
        detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise invalid("ListOptions.meta.k8s.io", "", [forbidden_value("resourceVersionMatch", detail)])
    return True


def _send_initial_state(watcher: Watcher, cluster: Cluster, selection: Selection) -> None:
    for stored in paging.select_objects(cluster.store.collection(selection.kind), selection):
        watcher.push(encode_event("ADDED", stored))


class WatchStream:
    """Writes the lines of one watcher until the timeout, the end of the connection, or a fault."""

    def __init__(self, cluster: Cluster, request: web.BaseRequest, info: RequestInfo, query: Query) -> None:
        self._cluster = cluster
        self._request = request
        self._info = info
        self._query = query
        self._start_time = time.monotonic()
        timeout = query.number("timeoutSeconds")
        self._deadline = self._start_time + (timeout or _TIMEOUT_SECONDS)
        self._sends_bookmarks = query.flag("allowWatchBookmarks")
        self._next_bookmark = self._start_time + cluster.options.bookmark_seconds
        self._rules: list[Rule] | None = None
        self._fault: Rule | None = None

    async def serve(self) -> web.StreamResponse:
        """Serve the watch. A version that is too old is an ERROR event in a 200; other errors have their own status."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            self._check_expired()
            watcher = open_watch(self._cluster, self._info, self._query)
        except ApiError as error:
            if error.code != _GONE:
                raise
            await response.prepare(self._request)
            await response.write(msgspec.json.encode({"type": "ERROR", "object": error.body()}) + b"\n")
        else:
            await self._stream(response, watcher)
        await response.write_eof()
        return response

    def _check_expired(self) -> None:
        if self._cluster.faults.strike(("watch-expired",), self._as_fault_target()) is not None:
            version = self._query.number("resourceVersion") or 0
            raise expired(f"too old resource version: {version} ({self._cluster.store.version})")

    async def _stream(self, response: web.StreamResponse, watcher: Watcher) -> None:
        try:
            await response.prepare(self._request)
            while not watcher.closed:
                await self._wait(watcher)
                if self._has_fault("unavailable"):
                    self._abort()
                    return
                if self._has_fault("watch-stall"):
                    continue
                is_over = self._is_over()  # before the write; later changes are for the next watch
                await self._write(response, watcher)
                if is_over:
                    return
        finally:
            self._cluster.watchers.discard(watcher)

    async def _wait(self, watcher: Watcher) -> None:
        """Wait for a line, or for the next time that needs an action."""
        if self._has_fault("watch-stall"):
            await asyncio.sleep(_STALL_POLL_SECONDS)
            return
        await watcher.wait(min(self._wakeup_times()) - time.monotonic())

    def _wakeup_times(self) -> list[float]:
        times = [self._deadline]
        if self._sends_bookmarks:
            times.append(self._next_bookmark)
        if self._has_fault("watch-close"):
            times.append(self._close_time())
        return times

    async def _write(self, response: web.StreamResponse, watcher: Watcher) -> None:
        """Write lines and bookmark, made at the same moment: the client must have all changes up to a bookmark."""
        moment, lines = time.monotonic(), watcher.drain()
        if self._sends_bookmarks and (moment >= self._next_bookmark or moment >= self._deadline):
            lines += encode_bookmark(self._info.kind, self._cluster.store.version)
            self._next_bookmark = moment + self._cluster.options.bookmark_seconds
        if lines:
            await response.write(lines)

    def _is_over(self) -> bool:
        moment = time.monotonic()
        return moment >= self._deadline or (self._has_fault("watch-close") and moment >= self._close_time())

    def _close_time(self) -> float:
        rule = self._fault
        if rule is None:
            return self._deadline
        return max(self._start_time, rule.since) + (rule.seconds or 0)

    def _has_fault(self, kind: str) -> bool:
        """Return True if the watch has this fault. A rule strikes a watch once, unless the rules are replaced."""
        faults = self._cluster.faults
        if self._rules is not faults.rules:
            self._rules = faults.rules
            self._fault = faults.strike(("unavailable", "watch-stall", "watch-close"), self._as_fault_target())
        return self._fault is not None and self._fault.kind == kind

    def _as_fault_target(self) -> FaultTarget:
        return FaultTarget("watch", self._info.kind.resource, self._info.namespace)

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
