"""Hears what Kubernetes tells of our Pods in Events: for people, and for what no Pod shows by itself.

Events are hints. Those that nobody heard are not looked for later: what goes on is told again.
"""

from collections.abc import Iterator, Sequence

from shared.sandbox import history
from shared.sandbox.history import HistoryEntry
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition, Update
from worker.kubernetes import client, objects
from worker.kubernetes.client import EVENTS, KubernetesClient
from worker.reconcile import diagnosis
from worker.reconcile.pod_status import apply_event, to_update
from worker.reflectors.pods import Ours
from worker.reflectors.reflector import Reflector

_PREFIX = "sandbox-"


class EventReflector(Reflector[objects.Event]):
    resource = EVENTS
    leisure = 0.2

    def __init__(
        self, ours: Ours, store: Store, cluster: KubernetesClient, settings: Settings, precondition: Precondition
    ) -> None:
        super().__init__(store, cluster, settings, precondition)
        self._ours = ours

    async def begin(self) -> str:
        return await self._cluster.version(EVENTS)

    def about(self, change: client.WatchEvent[objects.Event]) -> str:
        pod = change.object.involved_object
        return f"{pod.uid} {pod.name}"

    async def apply(self, changes: Sequence[client.WatchEvent[objects.Event]]) -> None:
        heard = [change.object for change in changes if change.type != "DELETED"]
        sandbox_id = await self._whose(heard[0].involved_object) if heard else None
        if sandbox_id is None:
            return
        await self._store.append_history(sandbox_id, [self._entry(happening) for happening in heard], self._guard)
        for happening in heard:
            why = diagnosis.diagnose_event(happening)
            if why is not None:
                await self._warn(sandbox_id, happening.involved_object, why)

    def _entry(self, happening: objects.Event) -> HistoryEntry:
        now = self._store.now()
        return history.entry(now, happening.component, happening.type, happening.reason, happening.message)

    async def _warn(self, sandbox_id: str, pod: objects.ObjectReference, why: diagnosis.Cause) -> None:
        def mutate(record: Sandbox | None) -> Update | None:
            if record is None or not _is_of(pod, record):
                return None
            return to_update(record, apply_event(record, pod.uid, why))

        await self._change(sandbox_id, mutate)

    async def _whose(self, pod: objects.ObjectReference) -> str | None:
        """The id of the sandbox whose Pod it is. An event may come before the Pod itself was seen: then the name
        decides, if a record of that name has no other Pod."""
        if pod.uid in self._ours:
            return self._ours[pod.uid]
        for sandbox_id in _ids(pod.name):
            record = await self._read(sandbox_id)
            if record and _is_of(pod, record):
                return sandbox_id
        return None


def _is_of(pod: objects.ObjectReference, record: Sandbox) -> bool:
    return object_name(record.id, record.incarnation) == pod.name and record.pod_uid in {"", pod.uid}


def _ids(pod_name: str) -> Iterator[str]:
    """Whose Pod has such a name: of a first life, or of a later one, which ends in its number."""
    if not pod_name.startswith(_PREFIX):
        return
    rest = pod_name.removeprefix(_PREFIX)
    yield rest
    before, _, number = rest.rpartition("-")
    if before and number.isdigit():
        yield before
