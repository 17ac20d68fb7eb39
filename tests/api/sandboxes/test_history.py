"""History of a sandbox: `GET /api/sandboxes/{id}/events`."""

import pytest
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis

from shared.sandbox.history import entry
from shared.sandbox.record import Reason
from shared.store.store import Store
from shared.store.update import Precondition
from tests.api.conftest import Api, Evolve, Serve
from tests.conftest import Clock
from tests.support.store import remove

pytestmark = pytest.mark.anyio

EVENTS = "/api/sandboxes/abc/events"


async def reasons(api: Api) -> list[str]:
    answer = await api.get(EVENTS)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["sandbox_id"], body["count"]) == ("abc", len(body["events"]))
    return [event["reason"] for event in body["events"]]


async def test_history_of_a_new_sandbox_has_its_create(api: Api):
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


async def test_history_mixes_own_entries_and_kubernetes_events_newest_last(
    api: Api, running: Evolve, evolve: Evolve, store: Store, fake_redis: FakeAsyncRedis, clock: Clock
):
    await running("abc")
    clock.advance(1.25)
    await fake_redis.set("lease", "mine")
    event = entry(clock.now, "kubelet", "Warning", "Unhealthy", "Startup probe failed")
    await store.append_history("abc", [event], Precondition("lease", "mine"))
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


async def test_history_can_be_read_while_the_sandbox_is_being_deleted(api: Api, running: Evolve):
    """Other reads are 404 then."""
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    assert (await api.get("/api/sandboxes/abc")).status_code == 404
    assert (await reasons(api))[-1] == "Terminating"


async def test_history_goes_on_in_the_next_incarnation(api: Api, running: Evolve):
    """The cause of the last end is what a person wants to know."""
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (await reasons(api))[-2:] == ["Terminating", "Accepted"]


async def test_history_of_a_missing_sandbox_is_404(api: Api, store: Store):
    assert (await api.get(EVENTS)).status_code == 404
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await remove(store, "abc")
    answer = await api.get(EVENTS)
    assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_history_without_entries_is_empty_if_there_is_a_record(
    api: Api, running: Evolve, fake_redis: FakeAsyncRedis
):
    await running("abc")
    await fake_redis.delete("sandbox:abc:history")
    assert await reasons(api) == []


@pytest.mark.parametrize("sandbox_id", ["ABC", "a" * 41, "a_b"])
async def test_history_of_a_bad_id_is_refused(api: Api, sandbox_id: str):
    answer = await api.get(f"/api/sandboxes/{sandbox_id}/events")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_history_without_the_key_is_401(serve: Serve):
    assert (await (await serve(headers={})).get(EVENTS)).status_code == 401


async def test_history_without_redis_is_503(serve: Serve, away_url: str):
    api = await serve(on=Store(ArqRedis.from_url(away_url)))
    answer = await api.get(EVENTS)
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
