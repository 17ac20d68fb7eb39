"""Adoption: builds the record of a Pod that has none, because Redis lost it or the Pod is a legacy one. Pure."""

import re

from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import expiry_policy
from shared.sandbox.names import object_name
from shared.sandbox.record import MAX_SECONDS, Sandbox, Spec, Status, Timings
from shared.sandbox.request import SANDBOX_ID as SANDBOX_ID_RULE
from shared.sandbox.urls import service_url, with_url
from shared.settings import Settings
from shared.store.update import Update
from worker.kubernetes.labels import SANDBOX_ID, incarnation_of, is_owned_by, origin
from worker.kubernetes.objects import Pod, Service
from worker.reconcile.pod_status import apply_pod

EARLIEST_SECONDS = 1_500_000_000.0
"""Earliest time of a create that is believed, in seconds since the epoch: 2017. No sandbox is older."""
CLOCK_TOLERANCE_SECONDS = 86_400.0
"""Maximum time by which a create can seem later than the creation of its Pod. The two times are of two clocks."""

_INCARNATION = re.compile(r"[1-9][0-9]{0,8}-[0-9a-z-]{1,16}")


def sandbox_of(pod: Pod) -> tuple[str, str] | None:
    """Return the id and the incarnation of a Pod's sandbox.

    None means that the Pod is not a sandbox's, although it has the label. Its id, incarnation or name is not as this
    service writes them.
    """
    sandbox_id, incarnation = pod.metadata.labels.get(SANDBOX_ID, ""), incarnation_of(pod.metadata)
    if not SANDBOX_ID_RULE.accepts(sandbox_id):
        return None
    if not _INCARNATION.fullmatch(incarnation) or pod.metadata.name != object_name(sandbox_id, incarnation):
        return None
    return sandbox_id, incarnation


def adopt(pod: Pod, service: Service | None, settings: Settings, now: float) -> Update:
    """Build the record of an orphan Pod, which must have a sandbox and not be terminating.

    If the Pod has no Service of its own, the update contains a provision job, which creates one. The spec comes from
    the Pod's annotation. A legacy Pod has no annotation and gets the default spec. Its lifetime counts from `now`,
    because no client could know of a lifetime before. Times are in seconds since the epoch.
    """
    sandbox_id, incarnation = sandbox_of(pod) or ("", "")
    generation, _, token = incarnation.partition("-")
    annotation = origin(pod.metadata)
    created_at = _created_at(pod, now) if annotation else min(now, _created_at(pod, now))
    spec = annotation.spec if annotation else Spec()
    policy = expiry_policy(spec, settings)
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
        idle_timeout=policy.idle_timeout,
        lifetime=policy.lifetime + (now - created_at) if policy.lifetime and not annotation else policy.lifetime,
        timings=_timings(pod),
    )
    record = _with_service(record, pod, service, settings)
    record = apply_pod(record, pod, now=now, deadline=now + settings.failed_retention_seconds)
    needs_job = record.is_active and not record.is_provisioned
    return Update(record, (Job.of(JobKind.PROVISION, record),) if needs_job else ())


def is_record_lost(record: Sandbox | None, pod: Pod, incarnation: str, *, has_synced: bool) -> bool:
    """Return True if Redis has lost the record of a running Pod, or holds an older one in its place.

    `record` is the id's record, of another incarnation than the Pod's. There are three cases besides "no record":

    - Redis went back in time. Then the Pod was requested later than the record. It is in use, and never a leftover.
    - The Pod has the name of the record's Pod, so the record's Pod is gone.
    - Redis was emptied, and a client has requested the id again before the adoption. Provision jobs wait until the
      cluster is synced, so such a record has no Pod yet.
    """
    if record is None or requested_at(pod) > record.created_at:
        return True
    generation = int(incarnation.partition("-")[0])
    if record.status is Status.TERMINATING or generation < record.generation:
        return False
    if record.pod_uid:
        return generation == record.generation
    return not has_synced


def requested_at(pod: Pod) -> float:
    """Return when the Pod's incarnation was accepted, seconds since the epoch; 0 if the Pod does not tell."""
    return _created_at(pod, 0.0)


def _created_at(pod: Pod, default: float) -> float:
    """Return the time in the Pod's annotation or, if that cannot be right, the Pod's own creation time.

    An impossible time would make the sandbox expire at once, replace a record in use, or make a record unreadable.
    """
    timestamp = pod.metadata.creation_timestamp
    pod_created_at = _in_range(timestamp.timestamp()) if timestamp else None
    annotation = origin(pod.metadata)
    latest = min(MAX_SECONDS, (pod_created_at or MAX_SECONDS) + CLOCK_TOLERANCE_SECONDS)
    if annotation is not None and EARLIEST_SECONDS <= annotation.created_at <= latest:
        return annotation.created_at
    return pod_created_at or default


def _in_range(seconds: float | None) -> float | None:
    """Return a time that a record can hold. Everybody who may write a Pod's status can write other times there."""
    return seconds if seconds and 0 < seconds <= MAX_SECONDS else None


def _with_service(record: Sandbox, pod: Pod, service: Service | None, settings: Settings) -> Sandbox:
    if service is None or not is_owned_by(service.metadata, pod.metadata):
        return with_url(record, settings)
    url = service_url(record, service.node_port, settings)
    return replace(record, service_uid=service.metadata.uid, url=url, node_port=service.node_port)


def _timings(pod: Pod) -> Timings:
    """Return the times of the Pod's conditions. No condition tells when the Pod was Running, so Ready stands for it."""
    ready = _in_range(pod.condition_since("Ready"))
    return Timings(scheduled=_in_range(pod.condition_since("PodScheduled")), running=ready, ready=ready)
