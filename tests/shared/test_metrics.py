"""What is counted: families with units and helps, closed labels, and from each change of a record what it means."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

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
MADE = provisioned(
    started(NEW, T + 0.2), ProvisionedObjects("sandbox-ada", "uid-p", "uid-s", "http://node:30001"), now=T + 0.7
)
SCHEDULED = replace(MADE, timings=replace(MADE.timings, scheduled=T + 0.8))
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
    "deerflow_watch_restarts": {"resource", "reason"},
}
"""Every family, and every label there is: a sandbox, a user or a text is in none."""


def stage(name: str) -> Series:
    return ("deerflow_create_stage_seconds_count", name)


@pytest.fixture
def counts() -> Counts:
    metrics.prepare("api")
    return Counts()


@pytest.fixture
def families(counts) -> dict[str, Metric]:
    """As a scrape finds them."""
    del counts
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def test_each_family_is_known_with_its_labels():
    found = {family.name: set(of._labelnames) for of in _collectors() for family in of.describe()}
    assert found == LABELS


def _collectors() -> set[metrics.Counter | metrics.Gauge | metrics.Histogram]:
    return set(metrics.REGISTRY._collector_to_names)


def test_each_family_says_what_it_is(families):
    for name, family in families.items():
        assert len(family.documentation) > 15, name
        assert family.documentation.endswith("."), name


def test_names_have_our_prefix_and_their_unit(families):
    """Of a counter `_total`, of a time `_seconds`; what is neither is a number of something."""
    for name, family in families.items():
        assert name.startswith("deerflow_"), name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), name
        assert (family.type == "histogram") == name.endswith("_seconds"), name


def test_the_build_is_named(counts):
    del counts
    assert value("deerflow_provisioner_build_info", version=VERSION, process="api") == 1


def test_what_is_known_beforehand_begins_at_0(families):
    """An increase is seen only from a value on: the first failure must not be the one that no alert sees."""
    begun = {name: {tuple(s.labels.values()) for s in family.samples} for name, family in families.items()}
    assert begun["deerflow_failures"] == {(reason,) for reason in [*Reason, "Other"] if reason}
    assert begun["deerflow_endings"] == {("deleted",), ("failed",), ("succeeded",), ("idle",), ("lifetime",)}
    assert begun["deerflow_repairs"] == {("adopted",), ("service",), ("leftover",), ("retried",)}
    assert ("provision", "failed") in begun["deerflow_jobs"]
    assert ("20.0", "ready") in begun["deerflow_create_stage_seconds"]
    watched = [resource.name for resource in (PODS, SERVICES, EVENTS)]
    assert begun["deerflow_watch_restarts"] == set(product(("ended", "expired", "error"), watched))


def test_each_refusal_begins_at_0(families):
    """Those that docs/errors.md has, but for a bug, which is none, and one word for all others."""
    begun = {sample.labels["reason"] for sample in families["deerflow_refusals"].samples}
    documented = set(re.findall(r"^\| `(\w+)` \| \d{3} \|", ERRORS.read_text(), re.MULTILINE))
    assert begun == documented - {"internal_error"} | {"other"}


def test_a_refusal_that_nobody_knows_is_another(counts):
    metrics.count_refusal("im_a_teapot")
    assert counts.gained() == {("deerflow_refusals_total", "other"): 1}


def test_nothing_is_told_of_when_a_series_began(families):
    assert not [name for name in families if name.endswith("_created")]


@pytest.mark.parametrize(
    ("before", "after", "gained"),
    [
        pytest.param(None, NEW, [("deerflow_accepted_total",)], id="a first life"),
        pytest.param(
            terminating(READY),
            new_incarnation(READY, Spec(), now=T + 60),
            [("deerflow_accepted_total",)],
            id="the next life",
        ),
        pytest.param(None, READY, [("deerflow_repairs_total", "adopted")], id="made anew from its Pod"),
        pytest.param(NEW, MADE, [stage("queued"), stage("created")], id="made"),
        pytest.param(MADE, SCHEDULED, [stage("scheduled")], id="on a node"),
        pytest.param(SCHEDULED, READY, [stage("running"), stage("ready")], id="running and ready at once"),
        pytest.param(replace(READY, ready=False), READY, [], id="ready again"),
        pytest.param(READY, touched(READY, T + 90), [], id="used"),
        pytest.param(READY, terminating(READY), [("deerflow_endings_total", "deleted")], id="deleted"),
        pytest.param(
            READY,
            expired(READY, ExpiryCause.IDLE, T + 99),
            [("deerflow_endings_total", "idle")],
            id="idle for too long",
        ),
        pytest.param(
            READY,
            expired(READY, ExpiryCause.LIFETIME, T + 99),
            [("deerflow_endings_total", "lifetime")],
            id="its lifetime was over",
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
            id="ended by itself, and well",
        ),
        pytest.param(
            READY,
            failed(READY, "OfALaterVersion", ""),
            [("deerflow_endings_total", "failed"), ("deerflow_failures_total", "Other")],
            id="failed for a reason we do not know",
        ),
        pytest.param(
            READY,
            failed(READY, "", ""),
            [("deerflow_endings_total", "failed"), ("deerflow_failures_total", "Other")],
            id="failed for no reason that is known",
        ),
        pytest.param(
            failed(READY, Reason.EVICTED, ""), terminating(failed(READY, Reason.EVICTED, "")), [], id="removed after it"
        ),
        pytest.param(terminating(READY), None, [], id="its record goes"),
        pytest.param(
            READY,
            next_attempt(without_service(READY)),
            [("deerflow_repairs_total", "service")],
            id="its Service was lost",
        ),
        pytest.param(NEW, next_attempt(NEW), [("deerflow_repairs_total", "retried")], id="its job was lost"),
        pytest.param(
            terminating(READY),
            next_attempt(terminating(READY)),
            [("deerflow_repairs_total", "retried")],
            id="the job that ends it was lost",
        ),
        pytest.param(READY, next_attempt(probing(READY, T + 60)), [], id="asked whether it is busy"),
    ],
)
def test_a_change_is_counted_as_what_it_means(counts, before, after, gained):
    metrics.record_transition(before, after)
    assert counts.gained() == dict.fromkeys(gained, 1)


def test_a_stage_lasts_from_the_acceptance(counts):
    del counts
    before = value("deerflow_create_stage_seconds_sum", stage="ready")
    metrics.record_transition(RUNNING, READY)
    assert value("deerflow_create_stage_seconds_sum", stage="ready") - before == pytest.approx(4.0)


def test_a_clock_that_went_back_makes_no_negative_time(counts):
    before = value("deerflow_create_stage_seconds_sum", stage="queued")
    metrics.record_transition(NEW, replace(NEW, timings=Timings(queued=T - 5)))
    assert value("deerflow_create_stage_seconds_sum", stage="queued") == before
    assert counts.gained() == {stage("queued"): 1}


@pytest.mark.anyio
async def test_a_life_counts_each_stage_once_whatever_is_written(counts, store: Store):
    """Through the store: what is written is counted, once, by whoever writes it; what is not written is not."""

    async def write(mutate: Callable[[Sandbox | None], Sandbox | None]) -> None:
        await store.create_or_update("ada", lambda current: None if (new := mutate(current)) == current else Update(new))

    await write(lambda _: NEW)
    for record in (MADE, SCHEDULED, READY, replace(READY, ready=False), READY, READY, terminating(READY)):
        await write(lambda _, record=record: record)
    await write(lambda _: None)
    assert counts.gained() == {
        ("deerflow_accepted_total",): 1,
        **{stage(name): 1 for name in ("queued", "created", "scheduled", "running", "ready")},
        ("deerflow_endings_total", "deleted"): 1,
    }


@pytest.mark.anyio
async def test_a_redis_that_does_not_answer_is_counted(counts, away_url):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        with pytest.raises(StoreUnavailable):
            await Store(redis).get("ada")
    assert counts.gained() == {("deerflow_redis_errors_total",): 1}


def test_no_label_holds_what_a_caller_has_sent(counts, families):
    del counts
    allowed = re.compile(r"[\w./:{}+-]*")
    for family in families.values():
        for sample in family.samples:
            assert all(allowed.fullmatch(text) for text in sample.labels.values()), sample
