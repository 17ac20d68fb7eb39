"""The reflectors of one leader's term."""

from shared.liveness.sync import ClusterSync
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from worker.kubernetes.client import KubernetesClient
from worker.leader.task import LeaderTask, LeaderTasks
from worker.reflectors.events import EventReflector
from worker.reflectors.pod_cache import PodCache
from worker.reflectors.pods import PodReflector
from worker.reflectors.services import ServiceReflector


def reflector_tasks(store: Store, sync: ClusterSync, kubernetes: KubernetesClient, settings: Settings) -> LeaderTasks:
    """Return a function that makes the reflectors of a term; they share one cache of Pods."""

    def tasks(lease: Precondition) -> list[LeaderTask]:
        cache = PodCache()
        return [
            PodReflector(sync, cache, store, kubernetes, settings, lease),
            ServiceReflector(store, kubernetes, settings, lease),
            EventReflector(cache, store, kubernetes, settings, lease),
        ]

    return tasks
