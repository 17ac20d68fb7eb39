"""deploy/observability: Prometheus accepts the rules, and all files name the same alerts and only existing metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fakeredis import FakeAsyncRedis
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from shared import metrics
from shared.liveness.sync import ClusterSync
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import observe
from tests.deploy.rendering import kubectl

DOCS = Path(__file__).parents[2] / "docs"
OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"
GROUPS: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "rules.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARD: dict[str, Any] = json.loads((OBSERVABILITY / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
PROMTOOL = shutil.which("promtool")

with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
NAMED = re.compile(r"\bdeerflow[_:][\w:]+")
OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


def promtool(*arguments: str) -> None:
    """Run promtool in the directory of the rules. A failure shows its output."""
    done = subprocess.run(
        [PROMTOOL or "", *arguments], cwd=OBSERVABILITY, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def queries() -> list[str]:
    """Return the PromQL of every panel."""
    return [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


# Prometheus


@with_promtool
def test_rules_are_valid():
    promtool("check", "rules", "rules.yaml")


@with_promtool
def test_rules_pass_their_own_tests():
    promtool("test", "rules", "rules_test.yaml")


@with_promtool
def test_configuration_for_compose_is_valid():
    promtool("check", "config", "prometheus.yaml")


@with_promtool
def test_queries_of_the_dashboard_are_valid(tmp_path):
    rules = [
        {"record": f"query:{n}", "expr": query.replace("$__rate_interval", "5m")} for n, query in enumerate(queries())
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "queries.yaml"))


# Metrics


@pytest.fixture
async def exported(fake_redis: FakeAsyncRedis, clock) -> dict[str, set[str]]:
    """Name and labels of each sample that a process exports.

    The API exports all metrics of a worker and the shared state. A limit is set and the cluster is synced, so that
    their metrics have samples too.
    """
    settings = read_settings({"PROVISIONER_API_KEY": "a-key", "MAX_SANDBOXES": "9"})
    store = Store(fake_redis, clock)
    app = create_app(settings, store)
    await observe(fake_redis, ClusterSync(fake_redis, clock, settings.cluster_name))
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        families = text_string_to_metric_families((await client.get("/metrics")).text)
    labels: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels.setdefault(sample.name, set()).update(sample.labels)
    return labels | _without_samples()


def _without_samples() -> dict[str, set[str]]:
    """Return the families that have no sample before the first event, because their label values are not known."""
    suffixes = {"counter": ("_total",), "histogram": OF_HISTOGRAMS}
    return {
        family.name + suffix: set(collector._labelnames) | ({"le"} if suffix == "_bucket" else set())
        for collector in vars(metrics).values()
        if isinstance(collector, MetricWrapperBase)
        for family in collector.describe()
        for suffix in suffixes.get(family.type, ())
    }


@pytest.mark.anyio
async def test_metrics_of_rules_and_dashboard_are_exported_or_recorded(exported):
    for query in [*queries(), *(rule["expr"] for rule in RULES)]:
        assert set(NAMED.findall(query)) <= exported.keys() | RECORDED, query


@pytest.mark.anyio
async def test_labels_in_queries_exist(exported):
    selected = re.compile(r"(deerflow_\w+)\{([^}]*)\}")
    for query in [*queries(), *(rule["expr"] for rule in RULES)]:
        for name, matchers in selected.findall(query):
            labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", matchers))
            assert set(labels) <= exported[name], query


@pytest.mark.anyio
async def test_series_in_tests_of_alerts_are_exported(exported):
    """Prometheus adds `instance`. Without this test, a renamed metric would silence an alert and not its test."""
    for series in (s["series"] for test in alert_tests() for s in test["input_series"]):
        name, _, labels = series.partition("{")
        assert set(re.findall(r"(\w+)=", labels)) - {"instance"} <= exported[name], series


@pytest.mark.anyio
async def test_objective_for_creates_is_the_bound_of_a_bucket(exported):
    del exported
    buckets = set(re.findall(r'deerflow_create_stage_seconds_bucket\{le="([\d.]+)"', metrics.exposition().decode()))
    bounds = {le for rule in RULES for le in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert bounds <= buckets
    assert bounds


@pytest.mark.anyio
async def test_dashboard_shows_every_exported_metric(exported):
    shown = {base(name) for query in queries() for name in NAMED.findall(query)}
    assert {base(name) for name in exported} <= shown


def base(name: str) -> str:
    """Return the name of a metric without the suffix of a histogram's sample."""
    return next((name.removesuffix(suffix) for suffix in OF_HISTOGRAMS if name.endswith(suffix)), name)


# Alerts, their tests and their runbooks


def alert_tests() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "rules_test.yaml").read_text())["tests"]
    return tests


def checked() -> Iterator[tuple[str, bool]]:
    """Yield each tested alert, and True if it must fire."""
    for check in (check for test in alert_tests() for check in test["alert_rule_test"]):
        yield check["alertname"], bool(check["exp_alerts"])


def test_alerts_have_a_test_that_fires_and_one_that_does_not():
    assert set(checked()) == {(name, fires) for name in ALERTS for fires in (True, False)}


def test_runbooks_have_one_section_for_each_alert():
    headings = re.findall(r"^## (.+)$", (DOCS / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_severity_annotations_and_a_link_to_its_runbook(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    assert name.startswith("DeerFlow"), "Alertmanager lists the alerts of all programs together"


def test_links_within_the_runbooks_lead_to_an_alert():
    anchors = set(re.findall(r"\]\(#([^)]+)\)", (DOCS / "runbooks.md").read_text()))
    assert anchors <= {name.lower() for name in ALERTS}


# The dashboard


def test_panels_do_not_overlap():
    used: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not used & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        used |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_dashboard_has_a_row_for_each_part():
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Creates", "Queue and workers", "Cluster", "Sandboxes", "Limits", "API", "Redis, processes"]


def test_panels_have_a_description_and_use_the_selected_data_source():
    for panel in (panel for panel in PANELS if panel["type"] != "row"):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]


# In a cluster


def test_objects_for_a_cluster_hold_the_same_rules_and_dashboard():
    rendered = subprocess.run([kubectl(), "kustomize", str(OBSERVABILITY)], capture_output=True, text=True, check=True)
    objects = {each["kind"]: each for each in yaml.safe_load_all(rendered.stdout)}
    assert objects.keys() == {"PrometheusRule", "ConfigMap"}
    assert objects["PrometheusRule"]["spec"] == {"groups": GROUPS}, "copy the groups of rules.yaml"
    assert objects["ConfigMap"]["data"] == {"dashboard.json": (OBSERVABILITY / "dashboard.json").read_text()}
