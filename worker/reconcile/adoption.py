"""Pure: a record made anew from the cluster, when Redis has lost it or the older provisioner made the Pod."""

import re

from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import expiry_policy
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox, Spec, Status, Timings
from shared.sandbox.request import SANDBOX_ID as SANDBOX_ID_RULE
from shared.sandbox.urls import service_url, with_url
from shared.settings import Settings
from shared.store.update import Update
from worker.kubernetes.labels import SANDBOX_ID, incarnation_of, is_owned_by, origin
from worker.kubernetes.objects import Pod, Service
from worker.reconcile.pod_status import apply_pod

_LIFE = re.compile(r"[1-9][0-9]{0,8}-[0-9a-z-]{1,16}")


def sandbox_of(pod: Pod) -> tuple[str, str] | None:
    """Id and life of the sandbox that a Pod is; None: it has our label, but no Pod of ours looks like that."""
    sandbox_id, incarnation = pod.metadata.labels.get(SANDBOX_ID, ""), incarnation_of(pod.metadata)
    if not SANDBOX_ID_RULE.accepts(sandbox_id):
        return None
    if not _LIFE.fullmatch(incarnation) or pod.metadata.name != object_name(sandbox_id, incarnation):
        return None
    return sandbox_id, incarnation


def adopt(pod: Pod, service: Service | None, settings: Settings, now: float) -> Update:
    """The record of a Pod that has `identity` and is not dying; without its Service, the job that makes it goes along.

    What was asked for stands in the Pod's annotation. The older provisioner's has none, and gets the defaults, and its
    lifetime from now on: nobody knew of one when it was made.
    """
    sandbox_id, incarnation = sandbox_of(pod) or ("", "")
    generation, _, token = incarnation.partition("-")
    known = origin(pod.metadata)
    since = pod.metadata.creation_timestamp
    created_at = known.created_at if known else since.timestamp() if since else now
    spec = known.spec if known else Spec()
    kept = expiry_policy(spec, settings)
    record = Sandbox(
        id=sandbox_id,
        generation=int(generation),
        token=token,
        cluster=settings.cluster_name,
        spec=spec,
        created_at=created_at,
        updated_at=now,
        last_used_at=now,
        deadline=now + settings.provision_timeout_seconds,
        idle_timeout=kept.idle_timeout,
        lifetime=kept.lifetime + (now - created_at) if kept.lifetime and not known else kept.lifetime,
        timings=_timings(pod),
    )
    record = _served(record, pod, service, settings)
    seen = apply_pod(record, pod, now=now, deadline=now + settings.failed_retention_seconds)
    return Update(seen, () if seen.is_provisioned or not seen.is_active else (Job.of(JobKind.PROVISION, seen),))


def is_record_lost(record: Sandbox | None, incarnation: str, *, has_synced: bool) -> bool:
    """Whether the record of a Pod that lives, of this life, is lost, and what is there in its place says nothing of it.

    Redis may have been emptied, or have gone back to what it had saved last: then a Pod may be of a later life than the
    record, or have the name that the record's own Pod must have had. Redis may also be new or emptied, and the id asked
    for again before its record was made anew: nothing is made for that until the records are complete.
    """
    if record is None:
        return True
    generation, _, _ = incarnation.partition("-")
    if int(generation) != record.generation:
        return int(generation) > record.generation
    return record.status is not Status.TERMINATING and (bool(record.pod_uid) or not has_synced)


def _served(record: Sandbox, pod: Pod, service: Service | None, settings: Settings) -> Sandbox:
    if service is None or not is_owned_by(service.metadata, pod.metadata):
        return with_url(record, settings)
    return replace(record, service_uid=service.metadata.uid, url=service_url(record, service.node_port, settings))


def _timings(pod: Pod) -> Timings:
    """What the Pod itself remembers."""
    ready = pod.condition_since("Ready") or None
    return Timings(scheduled=pod.condition_since("PodScheduled") or None, running=ready, ready=ready)
