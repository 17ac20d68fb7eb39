"""Hears what Kubernetes tells of our Pods in Events: for people, and for what no Pod shows by itself.

Events are hints. Those that nobody heard are not looked for later: what goes on is told again.
"""

from collections.abc import Iterator, Sequence

from shared.sandbox import history
from shared.sandbox.history import Entry
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Change, Guard
from worker.kubernetes import client, objects
from worker.kubernetes.client import HAPPENINGS, Cluster
from worker.reconcile import diagnosis
from worker.reconcile.pod_status import warned, written
from worker.reflectors.pods import Ours
from worker.reflectors.reflector import Following

_PREFIX = "sandbox-"


class Happenings(Following[objects.Happening]):
    resource = HAPPENINGS
    leisure = 0.2

    def __init__(self, ours: Ours, store: Store, cluster: Cluster, settings: Settings, guard: Guard) -> None:
        super().__init__(store, cluster, settings, guard)
        self._ours = ours

    async def begin(self) -> str:
        return await self._cluster.version(HAPPENINGS)

    def about(self, change: client.Change[objects.Happening]) -> str:
        pod = change.object.involved_object
        return f"{pod.uid} {pod.name}"

    async def apply(self, changes: Sequence[client.Change[objects.Happening]]) -> None:
        heard = [change.object for change in changes if change.type != "DELETED"]
        sandbox_id = await self._whose(heard[0].involved_object) if heard else None
        if sandbox_id is None:
            return
        await self._store.tell(sandbox_id, [self._entry(happening) for happening in heard], self._guard)
        for happening in heard:
            why = diagnosis.told(happening)
            if why is not None:
                await self._warn(sandbox_id, happening.involved_object, why)

    def _entry(self, happening: objects.Happening) -> Entry:
        now = self._store.now()
        return history.entry(now, happening.component, happening.type, happening.reason, happening.message)

    async def _warn(self, sandbox_id: str, pod: objects.Involved, why: diagnosis.Cause) -> None:
        def move(record: Sandbox | None) -> Change | None:
            if record is None or not _is_of(pod, record):
                return None
            return written(record, warned(record, pod.uid, why))

        await self._change(sandbox_id, move)

    async def _whose(self, pod: objects.Involved) -> str | None:
        """The id of the sandbox whose Pod it is. An event may come before the Pod itself was seen: then the name
        decides, if a record of that name has no other Pod."""
        if pod.uid in self._ours:
            return self._ours[pod.uid]
        for sandbox_id in _ids(pod.name):
            record = await self._read(sandbox_id)
            if record and _is_of(pod, record):
                return sandbox_id
        return None


def _is_of(pod: objects.Involved, record: Sandbox) -> bool:
    return object_name(record.id, record.life) == pod.name and record.pod_uid in {"", pod.uid}


def _ids(pod_name: str) -> Iterator[str]:
    """Whose Pod has such a name: of a first life, or of a later one, which ends in its number."""
    if not pod_name.startswith(_PREFIX):
        return
    rest = pod_name.removeprefix(_PREFIX)
    yield rest
    before, _, number = rest.rpartition("-")
    if before and number.isdigit():
        yield before
