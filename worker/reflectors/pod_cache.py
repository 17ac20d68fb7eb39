"""The leader's view of the cluster: the latest Pod of each uid."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from shared.sandbox.record import Timings
from worker.kubernetes.objects import Pod
from worker.reconcile.adoption import sandbox_of

_TERMINAL_PHASES = frozenset({"Failed", "Succeeded"})


class CachedPod(msgspec.Struct, frozen=True):
    """A sandbox's Pod, as last seen.

    `first_seen` holds when the Pod was first seen with a node, Running and Ready, in seconds since the epoch. These
    times are stamped on arrival: an event may be superseded before it is reconciled.
    `outcome` is the Pod as it looked when it ended. A delete that follows hides how it ended.
    """

    sandbox_id: str
    incarnation: str
    pod: Pod
    first_seen: Timings = Timings()
    outcome: Pod | None = None
    is_deleted: bool = False

    @property
    def uid(self) -> str:
        return self.pod.metadata.uid

    def updated(self, pod: Pod, now: float) -> "CachedPod":
        """Return the entry with a newer version of its Pod, which was received at `now`."""
        is_outcome = pod.status.phase in _TERMINAL_PHASES and not pod.is_terminating
        return replace(
            self,
            pod=pod,
            first_seen=_first_seen(self.first_seen, pod, now),
            outcome=pod if is_outcome else self.outcome,
        )


class PodCache:
    """Pods by uid. Ignores Pods that are not sandboxes."""

    def __init__(self) -> None:
        self._pods: dict[str, CachedPod] = {}

    def __iter__(self) -> Iterator[CachedPod]:
        return iter(list(self._pods.values()))

    def get(self, uid: str) -> CachedPod | None:
        return self._pods.get(uid)

    def sandbox_id(self, uid: str) -> str | None:
        """Return the id of the sandbox whose Pod this is."""
        cached = self._pods.get(uid)
        return cached.sandbox_id if cached else None

    def put(self, pod: Pod, now: float) -> CachedPod | None:
        """Store the latest version of a Pod; return None if the Pod is not a sandbox."""
        known = self._pods.get(pod.metadata.uid) or _new_entry(pod)
        if known is None:
            return None
        cached = self._pods[known.uid] = known.updated(pod, now)
        return cached

    def mark_deleted(self, uid: str) -> CachedPod | None:
        """Mark a Pod as deleted. It stays until `drop`, so that a failed reconcile can be repeated."""
        known = self._pods.get(uid)
        if known is None:
            return None
        cached = self._pods[uid] = replace(known, is_deleted=True)
        return cached

    def mark_missing(self, listed: Iterable[str]) -> list[CachedPod]:
        """Mark as deleted, and return, the Pods that a complete list no longer has."""
        marked = (self.mark_deleted(uid) for uid in self._pods.keys() - set(listed))
        return [cached for cached in marked if cached is not None]

    def drop(self, uid: str) -> None:
        """Forget a Pod whose delete is reconciled."""
        self._pods.pop(uid, None)


def _new_entry(pod: Pod) -> CachedPod | None:
    identity = sandbox_of(pod)
    return CachedPod(*identity, pod) if identity else None


def _first_seen(times: Timings, pod: Pod, now: float) -> Timings:
    is_running = pod.status.phase == "Running" and not pod.is_terminating
    is_ready = is_running and pod.is_condition_true("Ready")
    return replace(
        times,
        scheduled=times.scheduled or (now if pod.spec.node_name else None),
        running=times.running or (now if is_running else None),
        ready=times.ready or (now if is_ready else None),
    )
