"""Readiness of the whole system: sandboxes can be created, and their statuses are current."""

from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import WorkerRegistry


async def missing(workers: WorkerRegistry, sync: ClusterSync, now: float) -> list[str]:
    """Return what is missing, one sentence each; an empty list means ready. `now`: seconds since the epoch.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    sentences = [] if await workers.alive() else ["No worker is running. Start one: `python -m worker`."]
    synced_at = await sync.synced_at()
    if synced_at is None:
        sentences.append(f"No worker has synced cluster {sync.cluster} yet. See the workers' log.")
    elif (age := now - synced_at) > FRESH_SECONDS:
        sentences.append(f"The last sync of cluster {sync.cluster} was {age:.0f} s ago. See the workers' log.")
    return sentences
