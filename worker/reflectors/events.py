"""Reflects Kubernetes' Events about sandbox Pods: into the history, and into the reason that a Pod does not show.

Events are hints. An Event that is missed is not looked for later: trouble that lasts causes more of them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition, Update
from worker.kubernetes.client import EVENTS, KubernetesClient, WatchEvent
from worker.kubernetes.objects import Event, ObjectReference
from worker.reconcile.diagnosis import Cause, diagnose_event
from worker.reconcile.pod_status import apply_event, to_update
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.reflector import Reflector

BATCH_DELAY_SECONDS = 0.2
"""Events of one Pod are collected this long. Events come in bursts, and no caller waits for them."""
_POD_PREFIX = "sandbox-"


class EventReflector(Reflector[Event]):
    """Keeps the Events that are not reconciled yet. A key is the uid and name of the Pod that the Events are about."""

    resource = EVENTS

    def __init__(
        self,
        cache: PodCache,
        store: Store,
        kubernetes: KubernetesClient,
        settings: Settings,
        lease: Precondition,
        *,
        batch_delay: float = BATCH_DELAY_SECONDS,
    ) -> None:
        super().__init__(store, kubernetes, settings, lease)
        self._cache = cache
        self._batch_delay = batch_delay
        self._pending: defaultdict[str, dict[str, Event]] = defaultdict(dict)
        """Per key: the latest version of each Event, by its uid, in the order of arrival."""

    async def relist(self) -> str:
        """Return the version of now: older Events are not read."""
        return await self._kubernetes.version(EVENTS)

    def on_event(self, event: WatchEvent[Event]) -> None:
        """Keep the Event for the next batch of its Pod."""
        if event.type == "DELETED":
            return
        pod = event.object.involved_object
        key = f"{pod.uid} {pod.name}"
        self._pending[key].pop(event.object.metadata.uid, None)
        self._pending[key][event.object.metadata.uid] = event.object
        self._queue.add_after(key, self._batch_delay)

    async def reconcile(self, key: str) -> None:
        """Write the collected Events of one Pod."""
        batch = dict(self._pending.get(key, {}))
        if batch:
            await self._write(list(batch.values()))
        self._forget(key, batch)

    def _forget(self, key: str, batch: dict[str, Event]) -> None:
        """Forget what was written. An Event that was counted up meanwhile stays."""
        pending = self._pending[key]
        for uid, event in batch.items():
            if pending.get(uid) is event:
                del pending[uid]
        if not pending:
            del self._pending[key]

    async def _write(self, events: Collection[Event]) -> None:
        pod = next(iter(events)).involved_object
        sandbox_id = await self._sandbox_id(pod)
        if sandbox_id is None:
            return
        await self._store.append_history(sandbox_id, [self._entry(event) for event in events], self._lease)
        for event in events:
            cause = diagnose_event(event)
            if cause is not None:
                await self._explain(sandbox_id, pod, cause)

    def _entry(self, event: Event) -> HistoryEntry:
        return history.entry(self._store.now(), event.component, event.type, event.reason, event.message)

    async def _explain(self, sandbox_id: str, pod: ObjectReference, cause: Cause) -> None:
        def mutate(record: Sandbox) -> Update | None:
            return to_update(record, apply_event(record, pod.uid, cause)) if _is_pod_of(pod, record) else None

        await self._store.update(sandbox_id, mutate, precondition=self._lease)

    async def _sandbox_id(self, pod: ObjectReference) -> str | None:
        """Return the id of the sandbox whose Pod this is.

        An Event may arrive before its Pod. Then the name decides, if the record of that name has no other Pod.
        """
        if known := self._cache.sandbox_id(pod.uid):
            return known
        for sandbox_id in _candidate_ids(pod.name):
            record = await self._store.get(sandbox_id)
            if record and _is_pod_of(pod, record):
                return sandbox_id
        return None


def _is_pod_of(pod: ObjectReference, record: Sandbox) -> bool:
    return object_name(record.id, record.incarnation) == pod.name and record.pod_uid in {"", pod.uid}


def _candidate_ids(pod_name: str) -> Iterator[str]:
    """Yield the sandbox ids that a Pod name may stand for: later incarnations end in their generation."""
    if not pod_name.startswith(_POD_PREFIX):
        return
    name = pod_name.removeprefix(_POD_PREFIX)
    yield name
    sandbox_id, _, generation = name.rpartition("-")
    if sandbox_id and generation.isdigit():
        yield sandbox_id
