"""`GET /api/sandboxes/{id}/events`."""

import httpx
import pytest
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis

from shared.sandbox.history import entry
from shared.sandbox.record import Reason
from shared.store.store import Store
from shared.store.update import Precondition, Update
from tests.api.conftest import Evolve, Serve
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

EVENTS = "/api/sandboxes/abc/events"


async def reasons(api: httpx.AsyncClient) -> list[str]:
    answer = await api.get(EVENTS)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["sandbox_id"], body["count"]) == ("abc", len(body["events"]))
    return [event["reason"] for event in body["events"]]


async def test_a_new_sandbox(api: httpx.AsyncClient):
    """What was accepted says so, when, and who says it."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    answer = await api.get(EVENTS)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "sandbox_id": "abc",
            "events": [
                {
                    "at": "2025-06-15T15:06:40Z",
                    "source": "provisioner",
                    "type": "Normal",
                    "reason": "Accepted",
                    "message": "Accepted as generation 1.",
                }
            ],
            "count": 1,
        },
    )


async def test_newest_last(
    api: httpx.AsyncClient, running: Evolve, evolve: Evolve, store: Store, fake_redis: FakeAsyncRedis, clock: Clock
):
    """Ours and Kubernetes' are one story, in the order in which they were heard."""
    await running("abc")
    clock.advance(1.25)
    await fake_redis.set("lease", "mine")
    told = entry(clock.now, "kubelet", "Warning", "Unhealthy", "Startup probe failed")
    await store.append_history("abc", [told], Precondition("lease", "mine"))
    await evolve("abc", ready=False, reason=Reason.PROBE_FAILED, message="Startup probe failed")
    events = (await api.get(EVENTS)).json()["events"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert [event["reason"] for event in events][-3:] == ["Unhealthy", "ProbeFailed", "NotReady"]
    assert {key: events[-3][key] for key in ("source", "type", "message")} == {
        "source": "kubelet",
        "type": "Warning",
        "message": "Startup probe failed",
    }
    assert events[-3]["at"] == "2025-06-15T15:06:41.250000Z"


async def test_while_it_is_being_deleted(api: httpx.AsyncClient, running: Evolve):
    """A sandbox that is being deleted is 404, but what happened to it can be read as long as there is a record."""
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    assert (await api.get("/api/sandboxes/abc")).status_code == 404
    assert (await reasons(api))[-1] == "Terminating"


async def test_in_all_lives(api: httpx.AsyncClient, running: Evolve):
    """An id that comes back goes on with its history: what the last life died of is what one wants to know."""
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (await reasons(api))[-2:] == ["Terminating", "Accepted"]


async def test_unknown(api: httpx.AsyncClient, store: Store):
    """What is not there, or not there any more, has no history: 404, as of any other question about it."""
    assert (await api.get(EVENTS)).status_code == 404
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await store.create_or_update("abc", lambda _: Update(None))
    answer = await api.get(EVENTS)
    assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_record_of_an_earlier_version(api: httpx.AsyncClient, running: Evolve, fake_redis: FakeAsyncRedis):
    """A sandbox of which nothing was told yet is there all the same."""
    await running("abc")
    await fake_redis.delete("sandbox:abc:history")
    assert await reasons(api) == []


@pytest.mark.parametrize("sandbox_id", ["ABC", "a" * 41, "a_b"])
async def test_a_wrong_id(api: httpx.AsyncClient, sandbox_id: str):
    """What can be no id is a mistake of the caller's."""
    answer = await api.get(f"/api/sandboxes/{sandbox_id}/events")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_the_key(serve: Serve):
    """What happened to a sandbox is for those who have the key."""
    assert (await (await serve(headers={})).get(EVENTS)).status_code == 401


async def test_redis_away(serve: Serve, away_url: str):
    """While Redis is away nothing is claimed."""
    api = await serve(on=Store(ArqRedis.from_url(away_url)))
    answer = await api.get(EVENTS)
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
