"""`GET /metrics`: what this process has counted, and what all processes share, as Redis has it now."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.health.metrics import REDIS_SECONDS
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Status
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import Serve
from tests.conftest import StartValkey, observe

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
"""What the API alone exports, and the labels of each."""


async def scrape(client: httpx.AsyncClient) -> dict[str, Metric]:
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


async def test_it_needs_no_key_and_has_both_parts(api):
    families = await scrape(api)
    assert "deerflow_accepted" in families, "its own"
    assert "deerflow_sandboxes" in families, "the shared ones"


async def test_the_shared_families_and_their_labels_are_closed(serve: Serve, fake_redis, clock):
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


async def test_each_family_is_told_once(api):
    text = (await api.get("/metrics")).text
    told = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(told) == len(set(told))


async def test_sandboxes_by_status_those_of_which_there_are_none_too(api, running):
    await running("ada")
    await api.post("/api/sandboxes", json={"sandbox_id": "bob"})
    families = await scrape(api)
    assert by(families["deerflow_sandboxes"], "status") == dict.fromkeys(Status, 0) | {"Pending": 1, "Running": 1}
    assert set(by(families["deerflow_sandboxes"], "cluster")) == {"default"}


async def test_the_queue_and_how_long_its_oldest_job_waits(api, clock):
    families = await scrape(api)
    assert only(families["deerflow_queue_oldest_seconds"]) == 0
    await api.post("/api/sandboxes", json={"sandbox_id": "ada"})
    clock.advance(8)
    families = await scrape(api)
    assert only(families["deerflow_queue_jobs"]) == 1
    assert only(families["deerflow_queue_delayed_jobs"]) == 0
    assert only(families["deerflow_queue_oldest_seconds"]) == pytest.approx(8, abs=0.01)


async def test_records_that_no_sweep_looks_at(api, clock):
    await api.post("/api/sandboxes", json={"sandbox_id": "ada"})
    assert only((await scrape(api))["deerflow_overdue_sandboxes"]) == 0
    clock.advance(60)
    assert only((await scrape(api))["deerflow_overdue_sandboxes"]) == 1


async def test_workers_that_live(api, fake_redis):
    """By Redis' own clock, as those who write it."""
    assert only((await scrape(api))["deerflow_workers"]) == 0
    await WorkerRegistry(fake_redis, time.time).beat("worker-1")
    assert only((await scrape(api))["deerflow_workers"]) == 1


async def test_the_age_of_the_observation_if_there_ever_was_one(api, fake_redis, clock):
    assert "deerflow_sync_age_seconds" not in await scrape(api)
    await observe(fake_redis, ClusterSync(fake_redis, clock, "default"))
    clock.advance(20)
    assert only((await scrape(api))["deerflow_sync_age_seconds"]) == pytest.approx(20, abs=0.01)


async def test_limits_and_what_is_left_of_them(serve: Serve):
    """Of all sandboxes: a limit of each user has as many values as there are users."""
    client = await serve(MAX_SANDBOXES="2", MAX_SANDBOXES_PER_USER="5", NODE_PORT_CAPACITY="10")
    for name in ("ada", "bob", "eve"):
        await client.post("/api/sandboxes", json={"sandbox_id": name})
    families = await scrape(client)
    assert by(families["deerflow_limit"], "limit") == {"MAX_SANDBOXES": 2, "NODE_PORT_CAPACITY": 10}
    assert by(families["deerflow_limit_left"], "limit") == {"MAX_SANDBOXES": 0, "NODE_PORT_CAPACITY": 8}
    (refused,) = (s.value for s in families["deerflow_refusals"].samples if s.labels == {"reason": "limit_reached"})
    assert refused >= 1


async def test_no_limit_has_no_series(serve: Serve):
    families = await scrape(await serve(NODE_PORT_CAPACITY="0"))
    assert families["deerflow_limit"].samples == families["deerflow_limit_left"].samples == []


async def test_replicas_tell_the_same_state(serve: Serve):
    first, second = await serve(), await serve()
    await first.post("/api/sandboxes", json={"sandbox_id": "ada"})
    told = [(await scrape(client))["deerflow_sandboxes"].samples for client in (first, second)]
    assert told[0] == told[1]


async def test_without_redis_there_is_what_the_process_has_counted(serve: Serve, away: Store):
    """That Redis is away is among it; of what is shared, nothing is claimed."""
    client = await serve(away)
    before = only((await scrape(client))["deerflow_redis_errors"])
    families = await scrape(client)
    assert only(families["deerflow_redis_errors"]) > before
    assert not SHARED.keys() & families.keys()


async def test_a_redis_that_hangs_is_waited_for_within_the_bound_and_no_longer(serve: Serve, start_valkey: StartValkey):
    """As without Redis; of each command alone, redis-py would wait for longer. Then it goes on where it was."""
    server = start_valkey()
    async with connect(read_settings({"REDIS_URL": server.url}), FAIL_FAST) as redis:
        client = await serve(Store(redis))
        await client.post("/api/sandboxes", json={"sandbox_id": "ada"})
        before = await scrape(client)
        with server.frozen():
            async with asyncio.timeout(2 * REDIS_SECONDS):
                meanwhile = await scrape(client)
        after = await scrape(client)
    assert "deerflow_accepted" in meanwhile
    assert not SHARED.keys() & meanwhile.keys()
    assert only(after["deerflow_redis_errors"]) > only(before["deerflow_redis_errors"])
    assert after["deerflow_sandboxes"].samples == before["deerflow_sandboxes"].samples
