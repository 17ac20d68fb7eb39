"""What every process counts, for Prometheus. Closed label sets: no sandbox, user or text is ever in a label.

State that all processes share (how many sandboxes, how long the queue) is not here: the API reads it at each scrape
(`api.health.stats`), so that replicas do not multiply it.
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

from shared import errors
from shared.errors import ProvisionerError
from shared.queue.job import JobKind
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Status
from shared.version import VERSION

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry()

_QUICK = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)

BUILD = Info("deerflow_provisioner_build", "Which version this process is.", registry=REGISTRY)
STAGES = Histogram(
    "deerflow_create_stage_seconds",
    "From the acceptance of a sandbox to each stage, once a life. High `queued`: add workers. High `created`: look at "
    "the calls to Kubernetes. High `scheduled`: nodes have no room. High `running`, `ready`: images, slow sandboxes.",
    ["stage"],
    buckets=_SLOW,
    registry=REGISTRY,
)
ACCEPTED = Counter("deerflow_accepted", "Lives that creates have begun.", registry=REGISTRY)
ENDINGS = Counter(
    "deerflow_endings",
    "Lives that are over, by what ended them; see deerflow_failures for `failed`.",
    ["cause"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "deerflow_failures", "Lives that failed, by reason; docs/errors.md says what to do.", ["reason"], registry=REGISTRY
)
REPAIRS = Counter(
    "deerflow_repairs",
    "What was found wrong and put right, by kind. `adopted`: a Pod had no record. `service`: a sandbox had lost its "
    "own. `leftover`: a Pod was left behind. `retried`: a job got nowhere. Rising: workers die, or somebody else "
    "changes our objects.",
    ["kind"],
    registry=REGISTRY,
)
REFUSALS = Counter(
    "deerflow_refusals",
    "Requests that were refused, by problem code; docs/errors.md says what to do.",
    ["reason"],
    registry=REGISTRY,
)
JOBS = Counter(
    "deerflow_jobs",
    "Runs of a job, by outcome. `retried`: there will be another run. `failed`: a bug; the worker's log has it.",
    ["function", "outcome"],
    registry=REGISTRY,
)
JOB_SECONDS = Histogram(
    "deerflow_job_seconds", "How long a run of a job takes.", ["function"], buckets=_QUICK, registry=REGISTRY
)
KUBERNETES = Counter(
    "deerflow_kubernetes_requests",
    "Calls to Kubernetes, by HTTP status; `none`: no answer.",
    ["verb", "resource", "code"],
    registry=REGISTRY,
)
KUBERNETES_SECONDS = Histogram(
    "deerflow_kubernetes_request_seconds",
    "How long Kubernetes takes to answer; of a watch, until it begins.",
    ["verb", "resource"],
    buckets=_QUICK,
    registry=REGISTRY,
)
WATCHES = Counter(
    "deerflow_watch_restarts",
    "Watches begun again: `ended` is regular, every 10 s; `expired` and `error` are not.",
    ["resource", "reason"],
    registry=REGISTRY,
)
LEASE = Gauge("deerflow_lease_held", "1: this worker observes the cluster. One of all is to.", registry=REGISTRY)
REDIS_ERRORS = Counter("deerflow_redis_errors", "Times that Redis did not answer.", registry=REGISTRY)
HTTP = Counter("deerflow_http_requests", "Answers, by route template.", ["route", "method", "code"], registry=REGISTRY)
HTTP_SECONDS = Histogram(
    "deerflow_http_request_seconds",
    "How long an answer takes, waiting that was asked for (`Prefer: wait`) included.",
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
_CODES = frozenset(
    {
        *(kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProvisionerError)),
        *("not_found", "method_not_allowed", "request_entity_too_large"),  # what Litestar refuses
        _OTHER_CODE,
    }
) - {ProvisionerError.code}
"""Of problems; a bug is none that was refused."""


def prepare(process: str) -> None:
    """Names the build, and begins every series whose labels are known, so that its first increase is seen."""
    # When each series began: as many again, which Prometheus does not use.
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
    for resource, reason in product(_WATCHED, _RESTARTS):
        WATCHES.labels(resource, reason)


def exposition() -> bytes:
    return generate_latest(REGISTRY)


def count_refusal(code: str) -> None:
    """Count a request that was refused with this problem code."""
    REFUSALS.labels(code if code in _CODES else _OTHER_CODE).inc()


def record_transition(before: Sandbox | None, after: Sandbox | None) -> None:
    """Count what a written change of a record means. Called once a change, by the process that wrote it."""
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
