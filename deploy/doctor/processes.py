"""The processes, as Redis knows of them: a worker that lives, and one that observes the cluster."""

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, broken, ok
from shared.liveness.vitals import FRESH_SECONDS, Vitals
from shared.store.store import Store

_START = "`python -m worker`, with the same REDIS_URL as here, the number of the database too."


async def workers(patient: Context) -> Finding:
    store = await _store(patient)
    names = await Vitals(patient.redis, store.now, patient.settings.cluster_name).workers()
    return ok(f"{len(names)} live") if names else broken("none has said that it lives", f"Start one: {_START}")


async def observer(patient: Context) -> Finding:
    cluster = patient.settings.cluster_name
    store = await _store(patient)
    seen_at = await Vitals(patient.redis, store.now, cluster).observed_at()
    if seen_at is None:
        return broken(f"{cluster} was never observed", f"A worker does that, if its CLUSTER_NAME is this one: {_START}")
    seen = f"{cluster} was observed {max(store.now() - seen_at, 0):.0f} s ago"
    if store.now() - seen_at > FRESH_SECONDS:
        return broken(seen, "If `workers` and `cluster` are well here, the workers' log says why.")
    return ok(seen)


async def _store(patient: Context) -> Store:
    """With Redis' time, which the workers go by."""
    store = Store(patient.redis)
    await store.set_clock()
    return store
