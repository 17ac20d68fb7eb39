"""Changes of the cluster from outside: deleted Pods and Services, objects without a record, and no free node ports."""

import asyncio
import os
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes_asyncio.client import ApiException, V1Namespace, V1ObjectMeta

from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import new_record
from shared.settings import Settings, read_settings
from tests.system.chaos import repeat
from tests.system.conftest import Start, System
from tests.system.load import Load
from tests.system.rest import at_rest, violations
from worker import manifests

pytestmark = pytest.mark.anyio

CREATED_AT = float(int(time.time()))
"""Time of creation of the orphans. A recent time, because a sandbox older than its lifetime expires."""
PORTS = 4
FEW_PORTS = ("--node-ports", f"30000-{30000 + PORTS - 1}")
LEGACY = Path(__file__).parents[1] / "worker" / "manifests" / "deerflow" / "hostpath.json"
"""A Pod and a Service of DeerFlow's legacy provisioner."""


@pytest.mark.cluster
async def test_sandbox_whose_pod_was_deleted_fails_and_a_create_starts_its_next_incarnation(start: Start):
    """Its Service is deleted, too. Another sandbox does not change."""
    system = await start(workers=2)
    async with Load(system, may_fail=True) as load:
        await asyncio.gather(*map(load.create, ("lost", "other")))
        first, other = await asyncio.gather(*map(system.until_ready, ("lost", "other")))
        (pod,) = await system.pods("lost")
        await delete_pod(system, pod.metadata.name)
        failure = await system.until(lambda: failed(system, "lost"), "lost is Failed", lambda: system.read("lost"))
        assert (failure["reason"], failure["ready"], failure["generation"]) == ("PodLost", False, first["generation"])
        await system.until(lambda: has_no_service(system, "lost"), "its Service is gone")
        await load.create("lost")
        assert (await system.until_ready("lost"))["generation"] == first["generation"] + 1
        await at_rest(system, load.expected)
        assert (await system.read("other"))["sandbox_url"] == other["sandbox_url"]
    assert load.lies == []


@pytest.mark.cluster
async def test_sandbox_whose_service_was_deleted_gets_another_for_the_same_pod(start: Start):
    """The incarnation stays. The record gets the URL of the new Service."""
    system = await start(workers=2)
    async with Load(system) as load:
        await load.create("cut-off")
        first = await system.until_ready("cut-off")
        (pod,) = await system.pods("cut-off")
        await delete_service(system, "sandbox-cut-off-svc")
        await at_rest(system, load.expected)
        assert [p.metadata.uid for p in await system.pods("cut-off")] == [pod.metadata.uid]
        assert (await system.read("cut-off"))["generation"] == first["generation"]
    assert load.lies == []


async def test_system_while_random_objects_are_deleted_comes_to_rest(start: Start):
    """Pods and Services are deleted at any moment. A client creates each Failed sandbox again."""
    system = await start(workers=2)
    choices = random.Random(1)
    deleted = []

    async def delete_one_of_each() -> None:
        for objects, delete in ((await system.services(), delete_service), (await system.pods(), delete_pod)):
            with suppress(ApiException, IndexError):  # the object is gone already, or there is none yet
                await delete(system, name := choices.choice(objects).metadata.name)
                deleted.append(name)

    async def at_rest_again() -> bool:
        for sandbox_id in load.expected:
            if await failed(system, sandbox_id):
                await load.create(sandbox_id)
        return not await violations(system, load.expected)

    async with Load(system, may_fail=True) as load:
        async with repeat(delete_one_of_each, every=0.3):
            await load.churn(20, rate=10)
        await system.until(at_rest_again, "at rest", lambda: violations(system, load.expected))
    assert load.lies == []
    assert len(deleted) > 10


@pytest.mark.cluster
async def test_orphans_at_the_start_of_a_worker_are_adopted_with_their_services(start: Start):
    """The records show what was requested. A missing Service is created."""
    system = await start(workers=1)
    await system.create("recorded")
    await system.until_ready("recorded")
    await system.stack.workers[0].stop()
    pod = await create_pod(system, manifests.pod(orphan("whole"), settings_of(system)))
    manifest = manifests.service(orphan("whole"), pod.metadata.uid, settings_of(system))
    service = await create_service(system, manifest)
    await create_pod(system, manifests.pod(orphan("half"), settings_of(system)))
    await system.stack.start_worker()
    await asyncio.gather(*map(system.until_ready, ("whole", "half")))
    await at_rest(system, ["recorded", "whole", "half"])
    sandbox = await system.read("whole")
    assert sandbox["sandbox_url"].endswith(f":{service.spec.ports[0].node_port}")
    names = ("status", "generation", "user_id", "thread_id", "created_at")
    assert {name: sandbox[name] for name in names} == {
        "status": "Running",
        "generation": 1,
        "user_id": "u7",
        "thread_id": "t7",
        "created_at": datetime.fromtimestamp(CREATED_AT, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert [p.metadata.uid for p in await system.pods("whole")] == [pod.metadata.uid]
    await asyncio.gather(*map(system.delete, ("whole", "half")))
    await at_rest(system, ["recorded"])


@pytest.mark.cluster
async def test_orphan_that_appears_while_a_leader_watches_is_adopted(start: Start):
    system = await start(workers=2)
    await system.create("recorded")
    await system.until_ready("recorded")
    pod = await create_pod(system, manifests.pod(orphan("stray"), settings_of(system)))
    await system.until_ready("stray")
    await at_rest(system, ["recorded", "stray"])
    assert [p.metadata.uid for p in await system.pods("stray")] == [pod.metadata.uid]
    await system.delete("stray")
    await at_rest(system, ["recorded"])


async def test_legacy_sandboxes_at_the_start_of_a_worker_are_adopted_and_leftovers_removed(start: Start):
    """A create finds the legacy sandbox. Its Service is used without a change."""
    system = await start(workers=0)
    await system.core.create_namespace(V1Namespace(metadata=V1ObjectMeta(name=system.namespace)))
    await create_legacy(system, "left-over", has_pod=False)
    await create_legacy(system, "older")
    ((pod,), (service,)) = await system.pods("older"), await system.services("older")
    await system.stack.start_worker()
    sandbox = await system.until_ready("older")
    assert sandbox["status"] == "Running"
    assert sandbox["sandbox_url"].endswith(f":{service.spec.ports[0].node_port}")
    assert (await system.fetch(sandbox["sandbox_url"]))["uid"] == pod.metadata.uid
    await system.until(lambda: has_no_service(system, "left-over"), "the Service without a Pod is removed")
    assert await system.create("older") == sandbox
    assert [p.metadata.uid for p in await system.pods()] == [pod.metadata.uid]
    await system.delete("older")
    await system.until(lambda: is_gone(system, "older"), "the record is deleted", lambda: system.read("older"))
    await at_rest(system, [])
    await system.create("older")
    await at_rest(system, ["older"])


async def test_legacy_sandbox_that_appears_while_a_leader_watches_is_adopted(start: Start):
    """Both provisioners run for a while in an upgrade. The legacy one creates the Service a moment after the Pod."""
    system = await start_with_legacy_sandbox(start)
    sandbox = await system.until_ready("legacy")
    await check_legacy_sandbox(system, sandbox["sandbox_url"])


async def test_legacy_sandbox_whose_service_was_deleted_gets_one_that_reaches_its_pod(start: Start):
    """A legacy Pod has no incarnation label, which a Service could select."""
    system = await start_with_legacy_sandbox(start)
    await system.until_ready("legacy")
    (service,) = await system.services("legacy")
    await delete_service(system, service.metadata.name)

    async def has_new_service() -> dict[str, Any] | None:
        uids = [s.metadata.uid for s in await system.services("legacy")]
        sandbox = await system.read("legacy")
        return sandbox if sandbox["sandbox_url"] and uids and service.metadata.uid not in uids else None

    sandbox = await system.until(has_new_service, "there is a new Service", lambda: system.read("legacy"))
    await check_legacy_sandbox(system, sandbox["sandbox_url"])


async def start_with_legacy_sandbox(start: Start) -> System:
    """Start a system with a ready sandbox, and then create a legacy one beside it."""
    system = await start(workers=2)
    await system.create("own")
    await system.until_ready("own")
    await create_legacy(system, "legacy")
    return system


async def check_legacy_sandbox(system: System, url: str) -> None:
    """Check that the URL reaches the legacy Pod, and that the sandbox can be deleted."""
    (pod,) = await system.pods("legacy")
    assert (await system.fetch(url))["uid"] == pod.metadata.uid
    await system.delete("legacy")
    await at_rest(system, ["own"])


async def test_sandboxes_without_free_node_ports_wait_and_get_those_that_become_free(start: Start):
    """They report the reason, and none fails."""
    system = await start(workers=2, emulator=FEW_PORTS)
    ids = [f"port-{number}" for number in range(PORTS + 3)]
    async with Load(system) as load:
        await asyncio.gather(*map(load.create, ids))
        waiting = await system.until(lambda: waiting_for_ports(system, ids), "three report that they wait for a port")
        served = sorted(set(ids) - waiting)
        await asyncio.gather(*map(system.until_ready, served))
        assert await waiting_for_ports(system, ids) == waiting
        await asyncio.gather(*map(load.delete, served[:3]))
        await at_rest(system, load.expected)
        assert load.expected == set(ids) - set(served[:3])
    assert load.lies == []


async def waiting_for_ports(system: System, ids: list[str]) -> set[str]:
    """Return the ids that wait for a node port, once the other sandboxes have all ports."""
    sandboxes = await asyncio.gather(*map(system.read, ids))
    waiting = {
        sandbox["sandbox_id"]
        for sandbox in sandboxes
        if sandbox["reason"] == "NodePortsExhausted" and sandbox["sandbox_url"] is None
    }
    served = {sandbox["sandbox_id"] for sandbox in sandboxes if sandbox["sandbox_url"]}
    return waiting if len(served) == PORTS and waiting | served == set(ids) else set()


async def failed(system: System, sandbox_id: str) -> dict[str, Any] | None:
    sandbox = await system.read(sandbox_id)
    return sandbox if sandbox.get("status") == "Failed" else None


async def is_gone(system: System, sandbox_id: str) -> bool:
    return (await system.api.get(f"/api/sandboxes/{sandbox_id}")).status_code == 404


async def has_no_service(system: System, sandbox_id: str) -> bool:
    return not await system.services(sandbox_id)


async def delete_pod(system: System, name: str) -> None:
    """Delete the Pod at once, as `kubectl delete pod --grace-period 0` does."""
    await system.core.delete_namespaced_pod(name, system.namespace, grace_period_seconds=0)


async def delete_service(system: System, name: str) -> None:
    await system.core.delete_namespaced_service(name, system.namespace)


def orphan(sandbox_id: str) -> Sandbox:
    """Return the record from which the manifests of an orphan are built. Each call returns the same record."""
    spec = Spec(user_id="u7", thread_id="t7")
    record = new_record(sandbox_id, spec, cluster="default", now=CREATED_AT)
    return msgspec.structs.replace(record, token="0a1b2c3d")


def settings_of(system: System) -> Settings:
    """Return the settings of the system's workers, as far as manifests need them."""
    return read_settings({**os.environ, **system.stack.options.environment})


async def create_pod(system: System, pod: object) -> Any:
    return await system.core.create_namespaced_pod(system.namespace, msgspec.to_builtins(pod))


async def create_service(system: System, service: object) -> Any:
    return await system.core.create_namespaced_service(system.namespace, msgspec.to_builtins(service))


async def create_legacy(system: System, sandbox_id: str, *, has_pod: bool = True) -> None:
    """Create objects as the legacy provisioner does: without incarnation label, annotation and owner."""
    text = LEGACY.read_text()
    recorded_id = msgspec.json.decode(text)["request"]["sandbox_id"]
    objects = msgspec.json.decode(text.replace(recorded_id, sandbox_id))
    for each in (objects["pod"], objects["service"]):
        each["metadata"]["namespace"] = system.namespace
    if has_pod:
        await create_pod(system, objects["pod"])
    try:
        await create_service(system, objects["service"])
    except ApiException as error:
        if error.status != HTTPStatus.CONFLICT:  # the leader has adopted the Pod and created a Service meanwhile
            raise
