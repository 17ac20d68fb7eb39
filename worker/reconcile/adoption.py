"""Pure: a record made anew from the cluster, when Redis has lost it or the older provisioner made the Pod."""

import re

from msgspec.structs import replace

from shared.queue.job import Job, Work
from shared.sandbox.expiry import terms
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox, Spec, Status, Timings
from shared.sandbox.request import SANDBOX_ID as SANDBOX_ID_PATTERN
from shared.sandbox.request import SANDBOX_ID_LENGTH
from shared.sandbox.urls import addressed, service_url
from shared.settings import Settings
from shared.store.update import Change
from worker.kubernetes.labels import SANDBOX_ID, is_owned, life_of, origin
from worker.kubernetes.objects import Pod, Service
from worker.reconcile.pod_status import observed

_LIFE = re.compile(r"[1-9][0-9]{0,8}-[0-9a-z-]{1,16}")


def identity(pod: Pod) -> tuple[str, str] | None:
    """Id and life of the sandbox that a Pod is; None: it has our label, but no Pod of ours looks like that."""
    sandbox_id, life = pod.metadata.labels.get(SANDBOX_ID, ""), life_of(pod.metadata)
    if len(sandbox_id) > SANDBOX_ID_LENGTH or not re.match(SANDBOX_ID_PATTERN, sandbox_id):
        return None
    if not _LIFE.fullmatch(life) or pod.metadata.name != object_name(sandbox_id, life):
        return None
    return sandbox_id, life


def adopted(pod: Pod, service: Service | None, settings: Settings, now: float) -> Change:
    """The record of a Pod that has `identity` and is not dying; without its Service, the job that makes it goes along.

    What was asked for stands in the Pod's annotation. The older provisioner's has none, and gets the defaults, and its
    lifetime from now on: nobody knew of one when it was made.
    """
    sandbox_id, life = identity(pod) or ("", "")
    generation, _, token = life.partition("-")
    known = origin(pod.metadata)
    since = pod.metadata.creation_timestamp
    created_at = known.created_at if known else since.timestamp() if since else now
    spec = known.spec if known else Spec()
    kept = terms(spec, settings)
    record = Sandbox(
        id=sandbox_id,
        generation=int(generation),
        token=token,
        cluster=settings.cluster_name,
        spec=spec,
        created_at=created_at,
        updated_at=now,
        last_used_at=now,
        until=now + settings.provision_timeout_seconds,
        idle_timeout=kept.idle_timeout,
        lifetime=kept.lifetime + (now - created_at) if kept.lifetime and not known else kept.lifetime,
        timings=_timings(pod),
    )
    record = _served(record, pod, service, settings)
    seen = observed(record, pod, now=now, until=now + settings.failed_retention_seconds)
    return Change(seen, () if seen.is_provisioned or not seen.wants_pod else (Job.of(Work.PROVISION, seen),))


def is_lost(record: Sandbox | None, life: str, *, is_complete: bool) -> bool:
    """Whether the record of a Pod that lives, of this life, is lost, and what is there in its place says nothing of it.

    Redis may have been emptied, or have gone back to what it had saved last: then a Pod may be of a later life than the
    record, or have the name that the record's own Pod must have had. Redis may also be new or emptied, and the id asked
    for again before its record was made anew: nothing is made for that until the records are complete.
    """
    if record is None:
        return True
    generation, _, _ = life.partition("-")
    if int(generation) != record.generation:
        return int(generation) > record.generation
    return record.status is not Status.TERMINATING and (bool(record.pod_uid) or not is_complete)


def _served(record: Sandbox, pod: Pod, service: Service | None, settings: Settings) -> Sandbox:
    if service is None or not is_owned(service.metadata, pod.metadata):
        return addressed(record, settings)
    return replace(record, service_uid=service.metadata.uid, url=service_url(record, service.node_port, settings))


def _timings(pod: Pod) -> Timings:
    """What the Pod itself remembers."""
    ready = pod.since("Ready") or None
    return Timings(scheduled=pod.since("PodScheduled") or None, running=ready, ready=ready)
