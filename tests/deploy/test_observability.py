"""deploy/observability: what Prometheus makes of the rules; and that rules, tests, runbooks, dashboard and the objects
for a cluster speak of the same alerts, and of metrics that there are."""

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
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from shared import metrics
from shared.liveness.vitals import Vitals
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
    """In the directory of the rules; what it says when it is not content is the failure's text."""
    done = subprocess.run(
        [PROMTOOL or "", *arguments], cwd=OBSERVABILITY, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def questions() -> list[str]:
    """Of every panel, as Prometheus is asked."""
    return [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


# What Prometheus says


@with_promtool
def test_the_rules_are_valid():
    promtool("check", "rules", "rules.yaml")


@with_promtool
def test_each_alert_is_heard_when_it_is_to_be_and_not_otherwise():
    promtool("test", "rules", "rules_test.yaml")


@with_promtool
def test_the_configuration_for_compose_is_valid():
    promtool("check", "config", "prometheus.yaml")


@with_promtool
def test_each_question_of_the_dashboard_is_one_that_prometheus_understands(tmp_path):
    rules = [
        {"record": f"question:{n}", "expr": question.replace("$__rate_interval", "5m")}
        for n, question in enumerate(questions())
    ]
    (tmp_path / "questions.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "questions.yaml"))


# Metrics that there are


@pytest.fixture
async def exported(fake_redis: FakeAsyncRedis, clock) -> dict[str, set[str]]:
    """The name of each sample that a process exports, and its labels: all that an API tells that has a limit and was
    observed, which is all that a worker tells, and the state beside it."""
    settings = read_settings({"PROVISIONER_API_KEY": "a-key", "MAX_SANDBOXES": "9"})
    store = Store(fake_redis, clock)
    app = create_app(settings, store)
    await observe(fake_redis, Vitals(fake_redis, clock, settings.cluster_name))
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        families = text_string_to_metric_families((await client.get("/metrics")).text)
    found: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found | _without_a_series()


def _without_a_series() -> dict[str, set[str]]:
    """Families whose labels are not known beforehand have none before something happens."""
    suffixes = {"counter": ("_total",), "histogram": OF_HISTOGRAMS}
    return {
        family.name + suffix: set(collector._labelnames) | ({"le"} if suffix == "_bucket" else set())
        for collector in metrics.REGISTRY._collector_to_names
        for family in collector.describe()
        for suffix in suffixes.get(family.type, ())
    }


@pytest.mark.anyio
async def test_each_metric_of_the_rules_and_the_dashboard_is_exported_or_recorded(exported):
    there = exported.keys() | RECORDED
    for question in [*questions(), *(rule["expr"] for rule in RULES)]:
        assert set(NAMED.findall(question)) <= there, question


@pytest.mark.anyio
async def test_each_label_that_is_asked_for_is_one_of_its_metric(exported):
    selected = re.compile(r"(deerflow_\w+)\{([^}]*)\}")
    for question in [*questions(), *(rule["expr"] for rule in RULES)]:
        for name, matchers in selected.findall(question):
            labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", matchers))
            assert set(labels) <= exported[name], question


@pytest.mark.anyio
async def test_the_tests_of_the_alerts_are_given_metrics_as_they_are_exported(exported):
    """But for `instance`, which Prometheus adds. A metric that was renamed would silence an alert, and not its test."""
    for series in (s["series"] for test in alert_tests() for s in test["input_series"]):
        name, _, labels = series.partition("{")
        assert set(re.findall(r"(\w+)=", labels)) - {"instance"} <= exported[name], series


@pytest.mark.anyio
async def test_the_aim_for_creates_stands_at_a_bucket(exported):
    del exported
    buckets = set(re.findall(r'deerflow_create_stage_seconds_bucket\{le="([\d.]+)"', metrics.exposition().decode()))
    asked = {le for rule in RULES for le in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert asked <= buckets
    assert asked


@pytest.mark.anyio
async def test_the_dashboard_leaves_no_metric_of_ours_out(exported):
    """What is worth exporting is worth a look."""
    shown = {base(name) for question in questions() for name in NAMED.findall(question)}
    assert {base(name) for name in exported} <= shown


def base(name: str) -> str:
    """The metric that a histogram's sample is of."""
    return next((name.removesuffix(suffix) for suffix in OF_HISTOGRAMS if name.endswith(suffix)), name)


# Alerts, their tests and their runbooks


def alert_tests() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "rules_test.yaml").read_text())["tests"]
    return tests


def checked() -> Iterator[tuple[str, bool]]:
    """Each alert that is tested, and whether it is to be heard."""
    for check in (check for test in alert_tests() for check in test["alert_rule_test"]):
        yield check["alertname"], bool(check["exp_alerts"])


def test_each_alert_has_a_test_that_it_is_heard_and_one_that_it_is_not():
    wanted = {(name, is_heard) for name in ALERTS for is_heard in (True, False)}
    assert set(checked()) == wanted


def test_each_alert_has_a_section_in_the_runbooks_and_each_section_an_alert():
    headings = re.findall(r"^## (.+)$", (DOCS / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_urgent_it_is_what_it_is_and_what_to_do(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    assert name.startswith("DeerFlow"), "alerts of all programs stand in one list"


def test_links_within_the_runbooks_lead_to_a_section():
    anchors = set(re.findall(r"\]\(#([^)]+)\)", (DOCS / "runbooks.md").read_text()))
    assert anchors <= {name.lower() for name in ALERTS}


# The dashboard


def test_its_panels_stand_beside_each_other_and_none_over_another():
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_it_has_a_row_for_each_part():
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Creates", "Queue and workers", "Cluster", "Endings", "Limits", "API", "Redis, processes"]


def test_each_panel_says_what_it_shows_and_asks_the_prometheus_that_was_chosen():
    for panel in (panel for panel in PANELS if panel["type"] != "row"):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]


# In a cluster


def test_a_cluster_is_given_the_same_rules_and_the_same_dashboard():
    rendered = subprocess.run([kubectl(), "kustomize", str(OBSERVABILITY)], capture_output=True, text=True, check=True)
    objects = {found["kind"]: found for found in yaml.safe_load_all(rendered.stdout)}
    assert objects.keys() == {"PrometheusRule", "ConfigMap"}
    assert objects["PrometheusRule"]["spec"] == {"groups": GROUPS}, "copy the groups of rules.yaml"
    assert objects["ConfigMap"]["data"] == {"dashboard.json": (OBSERVABILITY / "dashboard.json").read_text()}
