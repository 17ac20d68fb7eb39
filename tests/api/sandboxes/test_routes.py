"""The routes of `/api/sandboxes`: create, read, list, delete."""

import asyncio
import re
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from shared.sandbox.record import Mount, Reason, Spec, Status, Timings
from shared.sandbox.transitions import new_record
from shared.store import keys
from shared.store.store import Store
from tests.api.conftest import Api, Evolve, Serve
from tests.conftest import Clock
from tests.support.store import put

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
    """Return kind and generation of each job, the first due first."""
    ids = [job_id.decode().split(":") for job_id in await redis.zrange(keys.QUEUE, 0, -1)]
    return [(kind, incarnation.partition("-")[0]) for kind, _, incarnation, _ in ids]


async def test_create_is_accepted_with_one_job(api: Api, fake_redis: FakeAsyncRedis):
    """The answer says where to poll, and when."""
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (202, NEW)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == "/api/sandboxes/abc"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert await jobs(fake_redis) == [("provision", "1")]


async def test_create_stores_the_whole_request(serve: Serve, store: Store):
    """A worker reads the request from the record."""
    mount: dict[str, Any] = {"host_path": "/srv/deer/skills", "container_path": "/mnt/skills/custom", "read_only": True}
    writable: dict[str, Any] = {"host_path": "/srv/deer/acp", "container_path": "/mnt/acp-workspace"}
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
async def test_create_needs_no_field_and_ignores_unknown_fields(api: Api, body: dict[str, Any]):
    """Without an id, the server makes one."""
    answer = await api.post("/api/sandboxes", json=body)
    assert answer.status_code == 202
    sandbox_id = answer.json()["sandbox_id"]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", sandbox_id)
    assert answer.headers["Location"] == f"/api/sandboxes/{sandbox_id}"
    assert (await api.get(answer.headers["Location"])).json() == answer.json()


async def test_creates_without_an_id_get_different_ids(api: Api):
    answers = await asyncio.gather(*(api.post("/api/sandboxes", json={}) for _ in range(20)))
    assert len({answer.json()["sandbox_id"] for answer in answers}) == 20


@pytest.mark.parametrize("sandbox_id", ["a", "0", "a-b", "0123456789abcdef", "a" * 40, "a--0"])
async def test_any_dns_label_of_40_characters_is_an_id(api: Api, sandbox_id: str):
    assert (await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})).status_code == 202
    assert (await api.get(f"/api/sandboxes/{sandbox_id}")).json()["sandbox_id"] == sandbox_id
    assert (await api.delete(f"/api/sandboxes/{sandbox_id}")).status_code == 200


async def test_repeated_create_returns_the_first_sandbox_without_a_second_job(
    api: Api, fake_redis: FakeAsyncRedis, clock: Clock
):
    first = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    clock.advance(1)
    repeated = await api.post("/api/sandboxes", json={"sandbox_id": "abc", "user_id": "bob"})
    assert (repeated.status_code, repeated.json()) == (202, first.json())
    assert repeated.headers["Location"] == first.headers["Location"]
    assert len(await jobs(fake_redis)) == 1


async def test_concurrent_creates_of_one_id_make_one_sandbox_with_one_job(api: Api, fake_redis: FakeAsyncRedis):
    answers = await asyncio.gather(*(api.post("/api/sandboxes", json={"sandbox_id": "abc"}) for _ in range(20)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, NEW)] * 20
    assert len(await jobs(fake_redis)) == 1


async def test_create_of_a_running_sandbox_returns_it_with_its_url(
    api: Api, running: Evolve, fake_redis: FakeAsyncRedis
):
    await running("abc")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (200, RUNNING)
    assert "Retry-After" not in answer.headers
    assert len(await jobs(fake_redis)) == 1


@pytest.mark.parametrize("status", [Status.FAILED, Status.SUCCEEDED])
async def test_create_after_the_end_starts_an_incarnation_and_removes_the_old_one(
    api: Api, evolve: Evolve, fake_redis: FakeAsyncRedis, status: Status
):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status, url="http://10.0.0.7:30123", reason=Reason.POD_FAILED, message="exit 1")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc", "user_id": "bob"})
    assert (answer.status_code, answer.json()) == (202, {**NEW, "generation": 2, "user_id": "bob"})
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("provision", "2"), ("terminate", "1")]


async def test_create_during_a_delete_starts_an_incarnation(api: Api, fake_redis: FakeAsyncRedis):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await api.delete("/api/sandboxes/abc")
    answer = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert (answer.status_code, answer.json()) == (202, {**NEW, "generation": 2})
    assert (await api.get("/api/sandboxes/abc")).json() == answer.json()
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("provision", "2"), ("terminate", "1")]


async def test_create_with_cluster_ip_is_answered_with_a_url_of_its_incarnation(serve: Serve):
    """Service names differ between incarnations."""
    api = await serve(SANDBOX_SERVICE_TYPE="ClusterIP", K8S_NAMESPACE="agents", SANDBOX_CONTAINER_PORT="9000")
    first = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert first.status_code == 202
    assert first.json()["sandbox_url"] == "http://sandbox-abc-svc.agents.svc.cluster.local:9000"
    await api.delete("/api/sandboxes/abc")
    second = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert second.json()["sandbox_url"] not in {None, first.json()["sandbox_url"]}


async def test_read_returns_a_running_sandbox_with_its_url(api: Api, running: Evolve):
    await running("abc")
    answer = await api.get("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, RUNNING)


@pytest.mark.parametrize("status", OTHERS)
async def test_read_returns_the_status_as_kubernetes_spells_it_with_the_cause(api: Api, evolve: Evolve, status: Status):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status, reason=Reason.POD_LOST, message="The Pod is gone.", url="http://h:1")
    shown = (await api.get("/api/sandboxes/abc")).json()
    assert (shown["status"], shown["reason"], shown["message"]) == (str(status), "PodLost", "The Pod is gone.")


async def test_read_returns_times_in_utc(api: Api, evolve: Evolve, clock: Clock):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    clock.advance(1.25)
    await evolve("abc", lifetime=61.25)
    shown = (await api.get("/api/sandboxes/abc")).json()
    assert shown["created_at"] == "2025-06-15T15:06:40Z"
    assert shown["updated_at"] == "2025-06-15T15:06:41.250000Z"
    assert (shown["expires_at"], shown["expires_by"]) == ("2025-06-15T15:07:41.250000Z", "lifetime")


async def test_timings_are_milliseconds_and_null_for_other_stages(api: Api, evolve: Evolve, clock: Clock):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    reached = Timings(queued=clock.now + 0.0124, created=clock.now + 0.064, running=clock.now + 1.5)
    await evolve("abc", timings=reached)
    expected = {"queued": 12, "created": 64, "scheduled": None, "running": 1500, "ready": None}
    for path in ("/api/sandboxes/abc", "/api/sandboxes"):
        answer = (await api.get(path)).json()
        assert answer.get("sandboxes", [answer])[0]["timings_ms"] == expected
    repeated = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert repeated.json()["timings_ms"] == expected


async def test_timings_are_never_negative(api: Api, evolve: Evolve, clock: Clock):
    """Kubernetes' times are whole seconds, from other clocks."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", timings=Timings(scheduled=clock.now - 1))
    assert (await api.get("/api/sandboxes/abc")).json()["timings_ms"]["scheduled"] == 0


async def test_unreadable_record_is_500_and_neither_hides_others_nor_is_overwritten(
    api: Api, running: Evolve, fake_redis: FakeAsyncRedis
):
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


async def test_read_of_a_missing_sandbox_is_404(api: Api):
    answer = await api.get("/api/sandboxes/abc")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("sandbox_not_found", 404)
    assert "abc" in answer.json()["detail"]


async def test_read_of_a_deleted_sandbox_is_404_with_the_status_terminating(api: Api, running: Evolve):
    await running("abc")
    await api.delete("/api/sandboxes/abc")
    answer = await api.get("/api/sandboxes/abc")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("sandbox_not_found", "Terminating")


async def test_list_without_sandboxes_is_empty(api: Api):
    answer = await api.get("/api/sandboxes")
    assert answer.status_code == 200
    assert (answer.json()["sandboxes"], answer.json()["count"]) == ([], 0)


async def test_list_shows_each_sandbox_as_a_read_does(api: Api, running: Evolve, clock: Clock):
    """Without those that are being deleted."""
    for sandbox_id in ("b", "c", "a"):
        await running(sandbox_id)
        clock.advance(1)
    await api.delete("/api/sandboxes/c")
    alone = [(await api.get(f"/api/sandboxes/{sandbox_id}")).json() for sandbox_id in ("b", "a")]
    answer = await api.get("/api/sandboxes")
    assert answer.status_code == 200
    assert (answer.json()["sandboxes"], answer.json()["count"]) == (alone, 2)


async def test_list_is_not_a_use(api: Api, running: Evolve, store: Store, clock: Clock):
    record = await running("abc")
    clock.advance(60)
    await api.get("/api/sandboxes")
    assert await store.get("abc") == record


async def test_delete_is_answered_at_once_and_leaves_the_record_to_its_job(
    api: Api, running: Evolve, store: Store, fake_redis: FakeAsyncRedis
):
    await running("abc")
    answer = await api.delete("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    record = await store.get("abc")
    assert record is not None
    assert (record.status, record.ready) == (Status.TERMINATING, False)
    assert sorted(await jobs(fake_redis)) == [("provision", "1"), ("terminate", "1")]


async def test_repeated_delete_is_answered_alike_without_a_second_job(
    api: Api, running: Evolve, fake_redis: FakeAsyncRedis
):
    await running("abc")
    first = await api.delete("/api/sandboxes/abc")
    repeated = await api.delete("/api/sandboxes/abc")
    assert (repeated.status_code, repeated.json()) == (200, first.json())
    assert len(await jobs(fake_redis)) == 2


async def test_delete_of_a_missing_sandbox_is_200_and_writes_nothing(api: Api, fake_redis: FakeAsyncRedis):
    answer = await api.delete("/api/sandboxes/abc")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert await fake_redis.keys() == []


@pytest.mark.parametrize("status", [Status.PENDING, *OTHERS])
async def test_delete_ends_a_sandbox_in_any_status(
    api: Api, evolve: Evolve, fake_redis: FakeAsyncRedis, status: Status
):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=status)
    assert (await api.delete("/api/sandboxes/abc")).status_code == 200
    assert (await api.get("/api/sandboxes/abc")).status_code == 404
    assert ("terminate", "1") in await jobs(fake_redis)


async def test_record_written_by_another_process_is_shown_alike(api: Api, store: Store, clock: Clock):
    """The API keeps no records itself."""
    record = new_record("abc", Spec(), cluster="default", now=clock.now)
    await put(store, record)
    assert (await api.get("/api/sandboxes/abc")).json() == {**NEW, "expires_at": None, "expires_by": None}
