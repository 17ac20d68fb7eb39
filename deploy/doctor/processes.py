"""Checks of the workers and the leader, by what they write to Redis."""

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, failed, ok
from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.store.store import Store

_START = "`python -m worker`, with the same REDIS_URL as here, including the database number"


async def check_workers(context: Context) -> Finding:
    store = await _open_store(context)
    names = await WorkerRegistry(context.redis, store.now).alive()
    if not names:
        return failed("no worker is running: Redis holds no recent heartbeat", f"Start a worker: {_START}.")
    return ok(f"{len(names)} running")


async def check_cluster_sync(context: Context) -> Finding:
    cluster = context.settings.cluster_name
    store = await _open_store(context)
    synced_at = await ClusterSync(context.redis, store.now, cluster).synced_at()
    if synced_at is None:
        return failed(
            f"no worker has synced cluster {cluster} yet", f"Start a worker with this CLUSTER_NAME: {_START}."
        )
    detail = f"cluster {cluster} was synced {max(store.now() - synced_at, 0):.0f} s ago"
    if store.now() - synced_at > FRESH_SECONDS:
        return failed(detail, "If the checks `workers` and `cluster` are ok, the workers' log has the cause.")
    return ok(detail)


async def _open_store(context: Context) -> Store:
    """Return a store with the clock of Redis, by which workers write their times."""
    store = Store(context.redis)
    await store.set_clock()
    return store
