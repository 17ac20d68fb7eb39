import asyncio
import re
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from shared.sandbox.record import Mount, Reason, Spec, Status, Timings
from shared.sandbox.transitions import new_record
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import Evolve, Serve
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

NEW = {
    "sandbox_id": "abc",
    "sandbox_url": None,
    "status": "Pending",
    "ready": False,
    "reason": "",
    "message": "",
    "generation": 1,
    "user_id": "default",
    "thread_id": "abc",
    "created_at": "2025-06-15T15:06:40Z",
    "updated_at": "2025-06-15T15:06:40Z",
    "expires_at": "2025-06-15T19:06:40Z",
    "expires_by": "idle",
    "timings_ms": {"queued": None, "created": None, "scheduled": None, "running": None, "ready": None},
}
RUNNING = {**NEW, "sandbox_url": "http://10.0.0.7:30123", "status": "Running", "ready": True}
OTHERS = [status for status in Status if status not in {Status.PENDING, Status.TERMINATING}]


async def jobs(redis: FakeAsyncRedis) -> list[tuple[str, str]]:
    """The work and the life's number of each job, the first due first."""
    ids = [job_id.decode().split(":") for job_id in await redis.zrange(keys.QUEUE, 0, -1)]
    return [(work, incarnation.partition("-")[0]) for work, _, incarnation, _ in ids]


async def test_create(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """A create is accepted, says where to look and when, and leaves one job."""
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (202, NEW)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == "/api/sandboxes/abc"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert await jobs(fake_redis) == [("provision", "1")]


async def test_create_keeps_what_was_asked(serve: Serve, store: Store):
    """Whatever the caller asked for is in the record, for the worker to read."""
    api = await serve(DEER_FLOW_HOST_BASE_DIR="/srv/deer")
    mount = {"host_path": "/srv/deer/skills", "container_path": "/mnt/skills/custom", "read_only": True}
    writable = {"host_path": "/srv/deer/acp", "container_path": "/mnt/acp-workspace"}
    body = {
        "sandbox_id": "abc",
        "thread_id": "T-1_x",
        "user_id": "Ada_1",
        "extra_mounts": [mount, writable],
        "include_legacy_skills": True,
        "provision_lark_cli_runtime": True,
        "provision_lark_cli_broker": True,
    }
    api = await serve(DEER_FLOW_HOST_BASE_DIR="/srv/deer")
    answer = await api.post("/api/sandboxes", json=body)
    assert (answer.json()["user_id"], answer.json()["thread_id"]) == ("Ada_1", "T-1_x")
    record = await store.get("abc")
    assert record is not None
    assert record.spec == Spec(
        user_id="Ada_1",
        thread_id="T-1_x",
        extra_mounts=(Mount(**mount), Mount(**writable)),
        provision_lark_cli_runtime=True,
        provision_lark_cli_broker=True,
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sandbox_id": None, "thread_id": None},
        {"thread_id": "a" * 64, "user_id": "-" * 128, "extra_mounts": []},
        {"extra_mounts": None},
        {"a_newer_field": {"of": ["any", 1, None]}, "status": "Running"},
    ],
)
async def test_create_asks_for_little(api: httpx.AsyncClient, body: dict[str, Any]):
    """Nothing has to be said, the id is then the server's; what the server does not know it ignores."""
    answer = await api.post("/api/sandboxes", json=body)
    assert answer.status_code == 202
    sandbox_id = answer.json()["sandbox_id"]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", sandbox_id)
    assert answer.headers["Location"] == f"/api/sandboxes/{sandbox_id}"
    assert (await api.get(answer.headers["Location"])).json() == answer.json()


async def test_no_two_ids_of_ours_are_alike(api: httpx.AsyncClient):
    """Who names no id gets a sandbox of their own."""
    answers = await asyncio.gather(*(api.post("/api/sandboxes", json={}) for _ in range(20)))
    assert len({answer.json()["sandbox_id"] for answer in answers}) == 20


@pytest.mark.parametrize("sandbox_id", ["a", "0", "a-b", "0123456789abcdef", "a" * 40, "a--0"])
async def test_ids(api: httpx.AsyncClient, sandbox_id: str):
    """Any DNS label of at most 40 characters is an id."""
    assert (await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})).status_code == 202
    assert (await api.get(f"/api/sandboxes/{sandbox_id}")).json()["sandbox_id"] == sandbox_id
    assert (await api.delete(f"/api/sandboxes/{sandbox_id}")).status_code == 200


async def test_create_again(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, clock: Clock):
    """The same id again is the same sandbox, as it was asked for first, and no second job."""
    first = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    clock.advance(1)
    again = await api.post("/api/sandboxes", json={"sandbox_id": "abc", "user_id": "bob"})
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert len(await jobs(fake_redis)) == 1


async def test_create_at_once(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """Many creates of one id at once get one sandbox, which has one job."""
    answers = await asyncio.gather(*(api.post("/api/sandboxes", json={"sandbox_id": "abc"}) for _ in range(20)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, NEW)] * 20
    assert len(await jobs(fake_redis)) == 1


async def test_create_what_runs(api: httpx.AsyncClient, running: Evolve, fake_redis: FakeAsyncRedis):
    """What runs already is named at once, with its URL, and nothing is to be waited for."""
    await running("abc")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (200, RUNNING)
    assert "Retry-After" not in answer.headers
    assert len(await jobs(fake_redis)) == 1


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED])
async def test_create_what_is_over(api: httpx.AsyncClient, evolve: Evolve, fake_redis: FakeAsyncRedis, status: Status):
    """An id whose last life is over begins a new one, which has its own job; what the last one left is removed."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status, url="http://10.0.0.7:30123", reason=Reason.POD_FAILED, message="exit 1")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc", "user_id": "bob"})
    assert (answer.status_code, answer.json()) == (202, {**NEW, "generation": 2, "user_id": "bob"})
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("provision", "2"), ("terminate", "1")]


async def test_create_what_is_being_deleted(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """An id that comes back while its last life is being deleted begins a new one, seconds after."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await api.delete("/api/sandboxes/abc")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (202, {**NEW, "generation": 2})
    assert (await api.get("/api/sandboxes/abc")).json() == answer.json()
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("provision", "2"), ("terminate", "1")]


async def test_cluster_ip_url(serve: Serve):
    """With ClusterIP the very first answer has the URL, a later life's its own, where Service names differ."""
    api = await serve(SANDBOX_SERVICE_TYPE="ClusterIP", K8S_NAMESPACE="agents", SANDBOX_CONTAINER_PORT="9000")
    first = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert first.status_code == 202
    assert first.json()["sandbox_url"] == "http://sandbox-abc-svc.agents.svc.cluster.local:9000"
    await api.delete("/api/sandboxes/abc")
    second = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert second.json()["sandbox_url"] not in {None, first.json()["sandbox_url"]}


async def test_read(api: httpx.AsyncClient, running: Evolve):
    """A sandbox that runs is shown with its URL."""
    await running("abc")
    answer = await api.get("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, RUNNING)


@pytest.mark.parametrize("status", OTHERS)
async def test_read_any_status(api: httpx.AsyncClient, evolve: Evolve, status: Status):
    """A sandbox is shown with the Pod's phase as Kubernetes spells it, and with the cause if one is known."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status, reason=Reason.POD_LOST, message="The Pod is gone.", url="http://h:1")
    shown = (await api.get("/api/sandboxes/abc")).json()
    assert (shown["status"], shown["reason"], shown["message"]) == (str(status), "PodLost", "The Pod is gone.")


async def test_times(api: httpx.AsyncClient, evolve: Evolve, clock: Clock):
    """Times are in UTC: of the create, of the last change, and of the end, by whichever comes first."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    clock.advance(1.25)
    await evolve("abc", lifetime=61.25)
    shown = (await api.get("/api/sandboxes/abc")).json()
    assert shown["created_at"] == "2025-06-15T15:06:40Z"
    assert shown["updated_at"] == "2025-06-15T15:06:41.250000Z"
    assert (shown["expires_at"], shown["expires_by"]) == ("2025-06-15T15:07:41.250000Z", "lifetime")


async def test_timings(api: httpx.AsyncClient, evolve: Evolve, clock: Clock):
    """Each stage that was reached says after how many milliseconds; the others are null."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    reached = Timings(queued=clock.now + 0.0124, created=clock.now + 0.064, running=clock.now + 1.5)
    await evolve("abc", timings=reached)
    wanted = {"queued": 12, "created": 64, "scheduled": None, "running": 1500, "ready": None}
    for path in ("/api/sandboxes/abc", "/api/sandboxes"):
        answer = (await api.get(path)).json()
        assert answer.get("sandboxes", [answer])[0]["timings_ms"] == wanted
    again = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert again.json()["timings_ms"] == wanted


async def test_timings_are_never_negative(api: httpx.AsyncClient, evolve: Evolve, clock: Clock):
    """Kubernetes' times are whole seconds, and its hosts' clocks their own."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", timings=Timings(scheduled=clock.now - 1))
    assert (await api.get("/api/sandboxes/abc")).json()["timings_ms"]["scheduled"] == 0


async def test_unreadable(api: httpx.AsyncClient, running: Evolve, fake_redis: FakeAsyncRedis):
    """What is no record of ours is a fault of ours, with its code; it hides no other, and is not written over."""
    await running("abc")
    await running("other")
    await fake_redis.set("sandbox:abc", b"{}")
    for method, path, body in (
        ("GET", "/api/sandboxes/abc", None),
        ("DELETE", "/api/sandboxes/abc", None),
        ("POST", "/api/sandboxes", {"sandbox_id": "abc"}),
    ):
        answer = await api.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (500, "record_unreadable")
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert await fake_redis.get("sandbox:abc") == b"{}"
    listed = (await api.get("/api/sandboxes")).json()["sandboxes"]
    assert [sandbox["sandbox_id"] for sandbox in listed] == ["other"]


async def test_read_unknown(api: httpx.AsyncClient):
    """A sandbox that is not there is a problem that says so."""
    answer = await api.get("/api/sandboxes/abc")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("sandbox_not_found", 404)
    assert "abc" in answer.json()["detail"]


async def test_read_what_is_being_deleted(api: httpx.AsyncClient, running: Evolve):
    """A sandbox that is being deleted is not there any more, and the problem says why."""
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    answer = await api.get("/api/sandboxes/abc")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("sandbox_not_found", "Terminating")


async def test_list_of_none(api: httpx.AsyncClient):
    """Where there is no sandbox there is an empty list."""
    answer = await api.get("/api/sandboxes")
    assert answer.status_code == 200
    assert (answer.json()["sandboxes"], answer.json()["count"]) == ([], 0)


async def test_list(api: httpx.AsyncClient, running: Evolve, clock: Clock):
    """The list shows each sandbox as it is shown alone, without those that are being deleted."""
    for sandbox_id in ("b", "c", "a"):
        await running(sandbox_id)
        clock.advance(1)
    await api.delete("/api/sandboxes/c")
    alone = [(await api.get(f"/api/sandboxes/{sandbox_id}")).json() for sandbox_id in ("b", "a")]
    answer = await api.get("/api/sandboxes")
    assert answer.status_code == 200
    assert (answer.json()["sandboxes"], answer.json()["count"]) == (alone, 2)


async def test_looking_is_not_using(api: httpx.AsyncClient, running: Evolve, store: Store, clock: Clock):
    """Listing changes nothing: it is no use of a sandbox."""
    record = await running("abc")
    clock.advance(60)
    await api.get("/api/sandboxes")
    assert await store.get("abc") == record


async def test_delete(api: httpx.AsyncClient, running: Evolve, store: Store, fake_redis: FakeAsyncRedis):
    """A delete is answered at once, and leaves the record to its job."""
    await running("abc")
    answer = await api.delete("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    record = await store.get("abc")
    assert record is not None
    assert (record.status, record.ready) == (Status.TERMINATING, False)
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("terminate", "1")]


async def test_delete_again(api: httpx.AsyncClient, running: Evolve, fake_redis: FakeAsyncRedis):
    """Deleting again has the same answer, and makes no second job."""
    await running("abc")
    first = await api.delete("/api/sandboxes/abc")
    again = await api.delete("/api/sandboxes/abc")
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(await jobs(fake_redis)) == 2


async def test_delete_unknown(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis):
    """Deleting what is not there is done already, and writes nothing."""
    answer = await api.delete("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert await fake_redis.keys() == []


@pytest.mark.parametrize("status", [Status.PENDING, *OTHERS])
async def test_delete_any_status(api: httpx.AsyncClient, evolve: Evolve, fake_redis: FakeAsyncRedis, status: Status):
    """Whatever a sandbox has come to, a delete takes it away."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status)
    assert (await api.delete("/api/sandboxes/abc")).status_code == 200
    assert (await api.get("/api/sandboxes/abc")).status_code == 404
    assert ("terminate", "1") in await jobs(fake_redis)


async def test_records_of_others(api: httpx.AsyncClient, store: Store, clock: Clock):
    """What another process wrote is shown alike: the API keeps nothing of its own."""
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    await store.create_or_update("abc", lambda _: Update(record))
    assert (await api.get("/api/sandboxes/abc")).json() == {**NEW, "expires_at": None, "expires_by": None}
