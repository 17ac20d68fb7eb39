"""Prometheus metrics that each process counts for itself. Labels have closed sets of values.

No label holds a sandbox, a user or free text. State that all processes share, such as the number of sandboxes, is not
here. The API reads such state at each scrape (`api.health.stats`), because replicas would multiply it.
"""

from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shared.errors import PROBLEMS
from shared.queue.job import JobKind
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Status
from shared.version import VERSION

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry()

_QUICK = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)

BUILD = Info("deerflow_provisioner_build", "Version and role of this process.", registry=REGISTRY)
STAGES = Histogram(
    "deerflow_create_stage_seconds",
    "Time from the create to each stage, once per incarnation. If `queued` is high, add workers. If `created` is high, "
    "calls to Kubernetes are slow. If `scheduled` is high, nodes have no room. If `running` or `ready` is high, image "
    "pulls or sandboxes are slow.",
    ["stage"],
    buckets=_SLOW,
    registry=REGISTRY,
)
ACCEPTED = Counter("deerflow_accepted", "Incarnations that creates started.", registry=REGISTRY)
ENDINGS = Counter(
    "deerflow_endings",
    "Ended incarnations, by cause; deerflow_failures has the reasons of `failed`.",
    ["cause"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "deerflow_failures", "Failed incarnations, by reason; see docs/errors.md.", ["reason"], registry=REGISTRY
)
REPAIRS = Counter(
    "deerflow_repairs",
    "Repairs, by kind. `adopted`: a Pod had no record. `service`: a Service was lost. `leftover`: a Pod outlived its "
    "sandbox. `retried`: a job made no progress. If repairs rise, workers die or another program changes the objects.",
    ["kind"],
    registry=REGISTRY,
)
REFUSALS = Counter(
    "deerflow_refusals",
    "Refused requests, by problem code; see docs/errors.md.",
    ["reason"],
    registry=REGISTRY,
)
JOBS = Counter(
    "deerflow_jobs",
    "Runs of a job, by outcome. `retried`: the job runs again. `failed`: a bug; see the worker's log.",
    ["function", "outcome"],
    registry=REGISTRY,
)
JOB_SECONDS = Histogram(
    "deerflow_job_seconds", "Duration of a run of a job.", ["function"], buckets=_QUICK, registry=REGISTRY
)
KUBERNETES = Counter(
    "deerflow_kubernetes_requests",
    "Calls to Kubernetes, by HTTP status; `none`: no response.",
    ["verb", "resource", "code"],
    registry=REGISTRY,
)
KUBERNETES_SECONDS = Histogram(
    "deerflow_kubernetes_request_seconds",
    "Duration of calls to Kubernetes; for a watch, until it begins.",
    ["verb", "resource"],
    buckets=_QUICK,
    registry=REGISTRY,
)
WATCHES = Counter(
    "deerflow_watch_restarts",
    "Restarts of watches. `ended` is regular, every 10 s; `expired` and `error` are not.",
    ["resource", "reason"],
    registry=REGISTRY,
)
UNREADABLE = Counter(
    "deerflow_unreadable_objects",
    "Objects of the cluster that a worker could not decode, and skipped, in lists and watches. Another program wrote "
    "them; the worker's log names them.",
    ["resource"],
    registry=REGISTRY,
)
LEASE = Gauge(
    "deerflow_lease_held",
    "1 if this worker is the leader, else 0. Exactly one worker is the leader.",
    registry=REGISTRY,
)
REDIS_ERRORS = Counter("deerflow_redis_errors", "Operations that Redis did not answer.", registry=REGISTRY)
HTTP = Counter(
    "deerflow_http_requests", "Responses, by route template.", ["route", "method", "code"], registry=REGISTRY
)
HTTP_SECONDS = Histogram(
    "deerflow_http_request_seconds",
    "Duration of requests, including waits requested with `Prefer: wait`.",
    ["route", "method"],
    buckets=_QUICK,
    registry=REGISTRY,
)

_STAGES = ("queued", "created", "scheduled", "running", "ready")
_CAUSES = {Status.TERMINATING: "deleted", Status.FAILED: "failed", Status.SUCCEEDED: "succeeded"}
_REASONS = frozenset(Reason) - {Reason.NONE}
_OTHER_REASON = "Other"
_WATCHED = ("pods", "services", "events")
_RESTARTS = ("ended", "expired", "error")
_OTHER_CODE = "other"
_LITESTAR_CODES = ("not_found", "method_not_allowed", "request_entity_too_large")
_CODES = frozenset({*(error.code for error in PROBLEMS), *_LITESTAR_CODES, _OTHER_CODE})
"""Codes of refused requests. An internal error is a bug, and not a refusal."""


def prepare(process: str) -> None:
    """Set the build info and start each series with known labels at 0, so that Prometheus sees the first increase."""
    # prometheus_client would add the start time of each series, which doubles the series and has no user.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    BUILD.info({"version": VERSION, "process": process})
    for stage in _STAGES:
        STAGES.labels(stage)
    for cause in (*_CAUSES.values(), *ExpiryCause):
        ENDINGS.labels(cause)
    for reason in (*sorted(_REASONS), _OTHER_REASON):
        FAILURES.labels(reason)
    for kind in ("adopted", "service", "leftover", "retried"):
        REPAIRS.labels(kind)
    for work, outcome in product(JobKind, ("done", "retried", "failed")):
        JOBS.labels(work, outcome)
    for code in sorted(_CODES):
        REFUSALS.labels(code)
    for resource in _WATCHED:
        UNREADABLE.labels(resource)
    for resource, reason in product(_WATCHED, _RESTARTS):
        WATCHES.labels(resource, reason)


def exposition() -> bytes:
    return generate_latest(REGISTRY)


def count_refusal(code: str) -> None:
    """Count a request that was refused with a problem code."""
    REFUSALS.labels(code if code in _CODES else _OTHER_CODE).inc()


def record_transition(before: Sandbox | None, after: Sandbox | None) -> None:
    """Count an update of a record. Only the process that wrote the update calls this, once."""
    if after is None:
        return
    if before is None or before.token != after.token:
        (REPAIRS.labels("adopted") if after.pod_uid else ACCEPTED).inc()
        return
    _stages(before, after)
    if before.is_active and not after.is_active:
        ENDINGS.labels(after.expired_by or _CAUSES[after.status]).inc()
    if after.status is Status.FAILED and before.status is not Status.FAILED:
        FAILURES.labels(after.reason if after.reason in _REASONS else _OTHER_REASON).inc()
    if before.is_provisioned and not after.is_provisioned:
        REPAIRS.labels("service").inc()
    elif (
        after.attempt > before.attempt and after.status is before.status and after.probing_until == before.probing_until
    ):
        REPAIRS.labels("retried").inc()


def _stages(before: Sandbox, after: Sandbox) -> None:
    for stage in _STAGES:
        reached = getattr(after.timings, stage)
        if reached is not None and getattr(before.timings, stage) is None:
            STAGES.labels(stage).observe(max(0.0, reached - after.created_at))
