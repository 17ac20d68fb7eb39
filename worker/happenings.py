"""Hears what Kubernetes tells of our Pods in Events: for people, and for what no Pod shows by itself.

Events are hints. Those that nobody heard are not looked for later: what goes on is told again.
"""

from collections.abc import Iterator

from shared import history
from shared.sandbox import Sandbox, object_name
from shared.store import Change
from worker import causes, cluster, seen
from worker.cluster import HAPPENINGS
from worker.following import Following
from worker.observation import warned, written

_PREFIX = "sandbox-"


class Happenings(Following[seen.Happening]):
    resource = HAPPENINGS

    async def begin(self) -> str:
        return await self._cluster.version(HAPPENINGS)

    def about(self, change: cluster.Change[seen.Happening]) -> str:
        return change.object.involved_object.name

    async def apply(self, change: cluster.Change[seen.Happening]) -> None:
        happening = change.object
        record = await self._of(happening.involved_object) if change.type != "DELETED" else None
        if record is None:
            return
        told = history.entry(
            self._store.now(), happening.component, happening.type, happening.reason, happening.message
        )
        await self._store.tell(record.id, told, self._guard)
        why = causes.told(happening)
        if why is not None:
            await self._warn(record, happening.involved_object.uid, why)

    async def _warn(self, about: Sandbox, pod_uid: str, why: causes.Cause) -> None:
        def move(record: Sandbox | None) -> Change | None:
            if record is None or record.life != about.life:
                return None
            return written(record, warned(record, pod_uid, why))

        await self._change(about.id, move, about)

    async def _of(self, pod: seen.Involved) -> Sandbox | None:
        """The record whose Pod it is. An event may come before the Pod itself was seen, so the name decides."""
        for sandbox_id in _ids(pod.name):
            record = await self._read(sandbox_id)
            if record and object_name(record.id, record.life) == pod.name and record.pod_uid in {"", pod.uid}:
                return record
        return None


def _ids(pod_name: str) -> Iterator[str]:
    """Whose Pod has such a name: of a first life, or of a later one, which ends in its number."""
    if not pod_name.startswith(_PREFIX):
        return
    rest = pod_name.removeprefix(_PREFIX)
    yield rest
    before, _, number = rest.rpartition("-")
    if before and number.isdigit():
        yield before
