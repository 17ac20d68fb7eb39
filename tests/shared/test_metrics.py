"""Metrics: families with units and help texts, closed labels, and the counts of each transition of a record."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared import metrics
from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec, Status, Timings
from shared.sandbox.transitions import (
    ProvisionedObjects,
    expired,
    failed,
    new_incarnation,
    new_record,
    next_attempt,
    probing,
    provisioned,
    started,
    terminating,
    touched,
    without_service,
)
from shared.settings import read_settings
from shared.store.store import Store
from shared.store.update import Update
from shared.version import VERSION
from tests.support.counts import Counts, Series, value
from worker.kubernetes.client import EVENTS, PODS, SERVICES

ERRORS = Path(__file__).parents[2] / "docs/errors.md"
T = 1_750_000_000.0
NEW = new_record("ada", Spec(), cluster="default", now=T)
PROVISIONED = provisioned(
    started(NEW, T + 0.2), ProvisionedObjects("sandbox-ada", "uid-p", "uid-s", "http://node:30001"), now=T + 0.7
)
SCHEDULED = replace(PROVISIONED, timings=replace(PROVISIONED.timings, scheduled=T + 0.8))
RUNNING = replace(SCHEDULED, status=Status.RUNNING, timings=replace(SCHEDULED.timings, running=T + 3.0))
READY = replace(RUNNING, ready=True, timings=replace(RUNNING.timings, ready=T + 4.0))

LABELS = {
    "deerflow_accepted": set(),
    "deerflow_create_stage_seconds": {"stage"},
    "deerflow_endings": {"cause"},
    "deerflow_failures": {"reason"},
    "deerflow_http_request_seconds": {"route", "method"},
    "deerflow_http_requests": {"route", "method", "code"},
    "deerflow_job_seconds": {"function"},
    "deerflow_jobs": {"function", "outcome"},
    "deerflow_kubernetes_request_seconds": {"verb", "resource"},
    "deerflow_kubernetes_requests": {"verb", "resource", "code"},
    "deerflow_lease_held": set(),
    "deerflow_provisioner_build": set(),  # an Info: it names version and process
    "deerflow_redis_errors": set(),
    "deerflow_refusals": {"reason"},
    "deerflow_repairs": {"kind"},
    "deerflow_unreadable_objects": {"resource"},
    "deerflow_watch_restarts": {"resource", "reason"},
}
"""All families with all their labels. None holds a sandbox, a user or free text."""


def stage(name: str) -> Series:
    return ("deerflow_create_stage_seconds_count", name)


@pytest.fixture
def counts() -> Counts:
    metrics.prepare("api")
    return Counts()


@pytest.fixture
def families(counts) -> dict[str, Metric]:
    """Families as a scrape reads them."""
    del counts
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def test_families_have_exactly_the_known_labels():
    collectors: set[Any] = set(metrics.REGISTRY._collector_to_names)
    labels = {family.name: set(collector._labelnames) for collector in collectors for family in collector.describe()}
    assert labels == LABELS


def test_family_has_a_help_text_in_sentences(families):
    for name, family in families.items():
        assert len(family.documentation) > 15, name
        assert family.documentation.endswith("."), name


def test_family_name_has_the_prefix_and_the_unit(families):
    """A counter ends in `_total` and a time in `_seconds`. Any other family is a number of things."""
    for name, family in families.items():
        assert name.startswith("deerflow_"), name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), name
        assert (family.type == "histogram") == name.endswith("_seconds"), name


def test_build_info_has_version_and_process(counts):
    del counts
    assert value("deerflow_provisioner_build_info", version=VERSION, process="api") == 1


def test_series_with_known_labels_start_at_0(families):
    """Prometheus sees an increase only between two values, so an alert would miss the first failure."""
    series = {name: {tuple(s.labels.values()) for s in family.samples} for name, family in families.items()}
    assert series["deerflow_failures"] == {(reason,) for reason in [*Reason, "Other"] if reason}
    assert series["deerflow_endings"] == {("deleted",), ("failed",), ("succeeded",), ("idle",), ("lifetime",)}
    assert series["deerflow_repairs"] == {("adopted",), ("service",), ("leftover",), ("retried",)}
    assert ("provision", "failed") in series["deerflow_jobs"]
    assert ("20.0", "ready") in series["deerflow_create_stage_seconds"]
    watched = [resource.name for resource in (PODS, SERVICES, EVENTS)]
    assert series["deerflow_unreadable_objects"] == {(resource,) for resource in watched}
    assert series["deerflow_watch_restarts"] == set(product(("ended", "expired", "error"), watched))


def test_series_of_each_documented_problem_code_starts_at_0(families):
    """An internal error is a bug and no refusal. `other` stands for codes that are not documented."""
    codes = {sample.labels["reason"] for sample in families["deerflow_refusals"].samples}
    documented = set(re.findall(r"^\| `(\w+)` \| \d{3} \|", ERRORS.read_text(), re.MULTILINE))
    assert codes == documented - {"internal_error"} | {"other"}


def test_refusal_with_an_unknown_code_is_counted_as_other(counts):
    metrics.count_refusal("im_a_teapot")
    assert counts.gained() == {("deerflow_refusals_total", "other"): 1}


def test_exposition_has_no_start_times_of_series(families):
    assert not [name for name in families if name.endswith("_created")]


@pytest.mark.parametrize(
    ("before", "after", "gained"),
    [
        pytest.param(None, NEW, [("deerflow_accepted_total",)], id="first incarnation"),
        pytest.param(
            terminating(READY),
            new_incarnation(READY, Spec(), now=T + 60),
            [("deerflow_accepted_total",)],
            id="next incarnation",
        ),
        pytest.param(None, READY, [("deerflow_repairs_total", "adopted")], id="adopted"),
        pytest.param(NEW, PROVISIONED, [stage("queued"), stage("created")], id="provisioned"),
        pytest.param(PROVISIONED, SCHEDULED, [stage("scheduled")], id="scheduled"),
        pytest.param(SCHEDULED, READY, [stage("running"), stage("ready")], id="running and ready at once"),
        pytest.param(replace(READY, ready=False), READY, [], id="ready again"),
        pytest.param(READY, touched(READY, T + 90), [], id="touched"),
        pytest.param(READY, terminating(READY), [("deerflow_endings_total", "deleted")], id="deleted"),
        pytest.param(
            READY,
            expired(READY, ExpiryCause.IDLE, T + 99),
            [("deerflow_endings_total", "idle")],
            id="expired as idle",
        ),
        pytest.param(
            READY,
            expired(READY, ExpiryCause.LIFETIME, T + 99),
            [("deerflow_endings_total", "lifetime")],
            id="expired by lifetime",
        ),
        pytest.param(
            replace(READY, status=Status.UNKNOWN),
            failed(READY, Reason.POD_LOST, "gone"),
            [("deerflow_endings_total", "failed"), ("deerflow_failures_total", "PodLost")],
            id="failed",
        ),
        pytest.param(
            READY,
            replace(READY, status=Status.SUCCEEDED),
            [("deerflow_endings_total", "succeeded")],
            id="succeeded",
        ),
        pytest.param(
            READY,
            failed(READY, "OfALaterVersion", ""),
            [("deerflow_endings_total", "failed"), ("deerflow_failures_total", "Other")],
            id="failed for an unknown reason",
        ),
        pytest.param(
            READY,
            failed(READY, "", ""),
            [("deerflow_endings_total", "failed"), ("deerflow_failures_total", "Other")],
            id="failed without a reason",
        ),
        pytest.param(
            failed(READY, Reason.EVICTED, ""),
            terminating(failed(READY, Reason.EVICTED, "")),
            [],
            id="deleted after a failure",
        ),
        pytest.param(terminating(READY), None, [], id="record deleted"),
        pytest.param(
            READY,
            next_attempt(without_service(READY)),
            [("deerflow_repairs_total", "service")],
            id="Service lost",
        ),
        pytest.param(NEW, next_attempt(NEW), [("deerflow_repairs_total", "retried")], id="provision job lost"),
        pytest.param(
            terminating(READY),
            next_attempt(terminating(READY)),
            [("deerflow_repairs_total", "retried")],
            id="terminate job lost",
        ),
        pytest.param(READY, next_attempt(probing(READY, T + 60)), [], id="probed for activity"),
    ],
)
def test_transition_is_counted_in_the_expected_series(counts, before, after, gained):
    metrics.record_transition(before, after)
    assert counts.gained() == dict.fromkeys(gained, 1)


def test_stage_is_measured_from_the_create(counts):
    del counts
    before = value("deerflow_create_stage_seconds_sum", stage="ready")
    metrics.record_transition(RUNNING, READY)
    assert value("deerflow_create_stage_seconds_sum", stage="ready") - before == pytest.approx(4.0)


def test_stage_before_the_create_is_counted_with_0_seconds(counts):
    """A clock can go back between the two times."""
    before = value("deerflow_create_stage_seconds_sum", stage="queued")
    metrics.record_transition(NEW, replace(NEW, timings=Timings(queued=T - 5)))
    assert value("deerflow_create_stage_seconds_sum", stage="queued") == before
    assert counts.gained() == {stage("queued"): 1}


@pytest.mark.anyio
async def test_incarnation_counts_each_stage_once_in_any_number_of_updates(counts, store: Store):
    """The store counts what it writes. An update that writes nothing counts nothing."""

    async def write(record: Sandbox | None) -> None:
        await store.create_or_update("ada", lambda current: None if record == current else Update(record))

    for record in (NEW, PROVISIONED, SCHEDULED, READY, replace(READY, ready=False), READY, READY, terminating(READY)):
        await write(record)
    await write(None)
    assert counts.gained() == {
        ("deerflow_accepted_total",): 1,
        **{stage(name): 1 for name in ("queued", "created", "scheduled", "running", "ready")},
        ("deerflow_endings_total", "deleted"): 1,
    }


@pytest.mark.anyio
async def test_unanswered_redis_operation_is_counted(counts, away_url):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("ada")
    assert counts.gained() == {("deerflow_redis_errors_total",): 1}


def test_label_values_have_no_text_of_callers(counts, families):
    del counts
    allowed = re.compile(r"[\w./:{}+-]*")
    for family in families.values():
        for sample in family.samples:
            assert all(allowed.fullmatch(text) for text in sample.labels.values()), sample
