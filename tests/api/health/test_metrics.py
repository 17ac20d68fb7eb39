"""`GET /metrics`: metrics of this process, and the state that all processes share."""

import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.calls import CALL_SECONDS
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Status
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import Api, Serve
from tests.conftest import StartValkey, observe
from tests.support.eventually import within

pytestmark = pytest.mark.anyio

SHARED = {
    "deerflow_sandboxes": {"cluster", "status"},
    "deerflow_queue_jobs": set(),
    "deerflow_queue_delayed_jobs": set(),
    "deerflow_queue_oldest_seconds": set(),
    "deerflow_overdue_sandboxes": set(),
    "deerflow_workers": set(),
    "deerflow_limit": {"limit"},
    "deerflow_limit_left": {"limit"},
    "deerflow_sync_age_seconds": {"cluster"},
}
"""Families that only the API exports, and the labels of each."""


async def scrape(client: Api) -> dict[str, Metric]:
    response = await client.get("/metrics", headers={"X-API-Key": ""})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def only(family: Metric) -> float:
    (sample,) = family.samples
    return float(sample.value)


def by(family: Metric, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples}


@pytest.fixture
async def away(away_url: str) -> AsyncIterator[Store]:
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        yield Store(redis)


async def test_scrape_needs_no_key_and_has_metrics_of_process_and_shared_state(api):
    families = await scrape(api)
    assert "deerflow_accepted" in families, "metrics of the process"
    assert "deerflow_sandboxes" in families, "shared state"


async def test_shared_families_have_a_closed_set_of_labels(serve: Serve, fake_redis, clock):
    client = await serve(MAX_SANDBOXES="9", MAX_SANDBOXES_PER_USER="3")
    await observe(fake_redis, ClusterSync(fake_redis, clock, "default"))
    await client.post("/api/sandboxes", json={"sandbox_id": "a-sandbox", "user_id": "a-user"})
    families = await scrape(client)
    for name, labels in SHARED.items():
        assert {frozenset(sample.labels) for sample in families[name].samples} == {frozenset(labels)}, name
        assert families[name].documentation.endswith("."), name
        assert families[name].type == "gauge", name
    text = (await client.get("/metrics")).text
    assert "a-user" not in text
    assert "a-sandbox" not in text


async def test_each_family_is_exported_once(api):
    text = (await api.get("/metrics")).text
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(families) == len(set(families))


async def test_sandboxes_are_exported_by_status_with_zeros(api, running):
    await running("ada")
    await api.post("/api/sandboxes", json={"sandbox_id": "bob"})
    families = await scrape(api)
    assert by(families["deerflow_sandboxes"], "status") == dict.fromkeys(Status, 0) | {"Pending": 1, "Running": 1}
    assert set(by(families["deerflow_sandboxes"], "cluster")) == {"default"}


async def test_queue_is_exported_with_the_age_of_its_oldest_job(api, clock):
    families = await scrape(api)
    assert only(families["deerflow_queue_oldest_seconds"]) == 0
    await api.post("/api/sandboxes", json={"sandbox_id": "ada"})
    clock.advance(8)
    families = await scrape(api)
    assert only(families["deerflow_queue_jobs"]) == 1
    assert only(families["deerflow_queue_delayed_jobs"]) == 0
    assert only(families["deerflow_queue_oldest_seconds"]) == pytest.approx(8, abs=0.01)


async def test_records_that_no_sweep_reads_are_exported_as_overdue(api, clock):
    await api.post("/api/sandboxes", json={"sandbox_id": "ada"})
    assert only((await scrape(api))["deerflow_overdue_sandboxes"]) == 0
    clock.advance(60)
    assert only((await scrape(api))["deerflow_overdue_sandboxes"]) == 1


async def test_workers_with_a_recent_heartbeat_are_exported(api, fake_redis):
    """Redis' own clock decides, as for the workers that write heartbeats."""
    assert only((await scrape(api))["deerflow_workers"]) == 0
    await WorkerRegistry(fake_redis, time.time).beat("worker-1")
    assert only((await scrape(api))["deerflow_workers"]) == 1


async def test_sync_age_is_exported_after_the_first_sync(api, fake_redis, clock):
    assert "deerflow_sync_age_seconds" not in await scrape(api)
    await observe(fake_redis, ClusterSync(fake_redis, clock, "default"))
    clock.advance(20)
    assert only((await scrape(api))["deerflow_sync_age_seconds"]) == pytest.approx(20, abs=0.01)


async def test_limits_of_all_sandboxes_are_exported_with_their_room(serve: Serve):
    """A limit of each user would have as many series as there are users."""
    client = await serve(MAX_SANDBOXES="2", MAX_SANDBOXES_PER_USER="5", NODE_PORT_CAPACITY="10")
    for name in ("ada", "bob", "eve"):
        await client.post("/api/sandboxes", json={"sandbox_id": name})
    families = await scrape(client)
    assert by(families["deerflow_limit"], "limit") == {"MAX_SANDBOXES": 2, "NODE_PORT_CAPACITY": 10}
    assert by(families["deerflow_limit_left"], "limit") == {"MAX_SANDBOXES": 0, "NODE_PORT_CAPACITY": 8}
    (refused,) = (s.value for s in families["deerflow_refusals"].samples if s.labels == {"reason": "limit_reached"})
    assert refused >= 1


async def test_limits_that_are_off_have_no_series(serve: Serve):
    families = await scrape(await serve(NODE_PORT_CAPACITY="0"))
    assert families["deerflow_limit"].samples == families["deerflow_limit_left"].samples == []


async def test_replicas_export_the_same_shared_state(serve: Serve):
    first, second = await serve(), await serve()
    await first.post("/api/sandboxes", json={"sandbox_id": "ada"})
    samples = [(await scrape(client))["deerflow_sandboxes"].samples for client in (first, second)]
    assert samples[0] == samples[1]


async def test_scrape_without_redis_has_the_metrics_of_the_process(serve: Serve, away: Store):
    """The metrics count the Redis error. The shared state is left out, because it is unknown."""
    client = await serve(away)
    before = only((await scrape(client))["deerflow_redis_errors"])
    families = await scrape(client)
    assert only(families["deerflow_redis_errors"]) > before
    assert not SHARED.keys() & families.keys()


async def test_scrape_of_a_hanging_redis_ends_within_the_deadline_of_a_call(serve: Serve, start_valkey: StartValkey):
    """When Redis answers again, the shared state is back."""
    server = start_valkey()
    async with connect(read_settings({"REDIS_URL": server.url}), FAIL_FAST) as redis:
        store = Store(redis)
        client = await serve(store)
        await client.post("/api/sandboxes", json={"sandbox_id": "ada"})
        before = await scrape(client)
        with server.frozen():
            frozen = await within(scrape(client), CALL_SECONDS + 1)
        after = await scrape(client)
    assert "deerflow_accepted" in frozen
    assert not SHARED.keys() & frozen.keys()
    assert only(after["deerflow_redis_errors"]) > only(before["deerflow_redis_errors"])
    assert after["deerflow_sandboxes"].samples == before["deerflow_sandboxes"].samples
