"""What others do to the Pods and Services in our cluster: they delete them, leave their own, or leave no room."""

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
from kubernetes_asyncio.client import ApiException

from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.transitions import new_record
from shared.settings import Settings, read_settings
from tests.system.chaos import repeated
from tests.system.conftest import Start, System
from tests.system.load import Load
from tests.system.rest import at_rest, violations
from worker import manifests

CREATED_AT = float(int(time.time()))
"""Lately: what is older than its lifetime would be ended."""
pytestmark = pytest.mark.anyio

PORTS = 4
FEW_PORTS = ("--node-ports", f"30000-{30000 + PORTS - 1}")
OLDER = Path(__file__).parents[1] / "worker" / "manifests" / "deerflow" / "hostpath.json"
"""A Pod and a Service as DeerFlow's legacy provisioner made them."""


@pytest.mark.cluster
async def test_a_pod_that_is_deleted_behind_our_back_ends_its_life_and_a_create_begins_the_next(start):
    """The record says so, and the Service goes too; nobody else is touched."""
    system = await start(workers=2)
    async with Load(system, may_fail=True) as load:
        await asyncio.gather(*map(load.create, ("lost", "other")))
        first, other = await asyncio.gather(*map(system.until_ready, ("lost", "other")))
        (pod,) = await system.pods("lost")
        await delete_pod(system, pod.metadata.name)
        over = await system.until(lambda: failed(system, "lost"), "it is Failed", lambda: system.read("lost"))
        assert (over["reason"], over["ready"], over["generation"]) == ("PodLost", False, first["generation"])
        await system.until(lambda: has_no_service(system, "lost"), "its Service is gone")
        await load.create("lost")
        assert (await system.until_ready("lost"))["generation"] == first["generation"] + 1
        await at_rest(system, load.wanted)
        assert (await system.read("other"))["sandbox_url"] == other["sandbox_url"]
    assert load.lies == []


@pytest.mark.cluster
async def test_a_service_that_is_deleted_behind_our_back_is_made_again(start):
    """For the same Pod, in the same life; the record gets the new one's URL."""
    system = await start(workers=2)
    async with Load(system) as load:
        await load.create("cut-off")
        first = await system.until_ready("cut-off")
        (pod,) = await system.pods("cut-off")
        await delete_service(system, "sandbox-cut-off-svc")
        await at_rest(system, load.wanted)
        assert [p.metadata.uid for p in await system.pods("cut-off")] == [pod.metadata.uid]
        assert (await system.read("cut-off"))["generation"] == first["generation"]
    assert load.lies == []


async def test_whatever_is_deleted_while_sandboxes_are_made_and_deleted_all_comes_right(start):
    """Pods and Services at random, at any moment of their lives. Whoever finds a sandbox Failed creates it again."""
    system = await start(workers=2)
    choices = random.Random(1)
    lost = []

    async def lose_one_of_each() -> None:
        for objects, delete in ((await system.services(), delete_service), (await system.pods(), delete_pod)):
            with suppress(ApiException, IndexError):  # it went by itself, or there is none yet
                await delete(system, name := choices.choice(objects).metadata.name)
                lost.append(name)

    async def all_well() -> bool:
        for sandbox_id in load.wanted:
            if await failed(system, sandbox_id):
                await load.create(sandbox_id)
        return not await violations(system, load.wanted)

    async with Load(system, may_fail=True) as load:
        async with repeated(lose_one_of_each, every=0.3):
            await load.churn(20, rate=10)
        await system.until(all_well, "all is well", lambda: violations(system, load.wanted))
    assert load.lies == []
    assert len(lost) > 10


@pytest.mark.cluster
async def test_pods_of_ours_that_nobody_recorded_are_adopted_by_the_next_worker_that_starts(start):
    """As the sandboxes that were asked for once, with the URL of their Services; one that is missing is made."""
    system = await start(workers=1)
    await system.create("recorded")
    await system.until_ready("recorded")
    await system.stack.workers[0].stop()
    pod = await make_pod(system, manifests.pod(unrecorded("whole"), settings_of(system)))
    service = await make_service(system, manifests.service(unrecorded("whole"), pod.metadata.uid, settings_of(system)))
    await make_pod(system, manifests.pod(unrecorded("half"), settings_of(system)))
    await system.stack.start_worker()
    await asyncio.gather(*map(system.until_ready, ("whole", "half")))
    await at_rest(system, ["recorded", "whole", "half"])
    answer = await system.read("whole")
    assert answer["sandbox_url"].endswith(f":{service.spec.ports[0].node_port}")
    told = {name: answer[name] for name in ("status", "generation", "user_id", "thread_id", "created_at")}
    assert told == {
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
async def test_a_pod_of_ours_that_nobody_recorded_is_adopted_as_soon_as_it_is_seen(start):
    system = await start(workers=2)
    await system.create("recorded")
    await system.until_ready("recorded")
    pod = await make_pod(system, manifests.pod(unrecorded("stray"), settings_of(system)))
    await system.until_ready("stray")
    await at_rest(system, ["recorded", "stray"])
    assert [p.metadata.uid for p in await system.pods("stray")] == [pod.metadata.uid]
    await system.delete("stray")
    await at_rest(system, ["recorded"])


async def test_sandboxes_of_the_older_provisioner_are_taken_over_and_its_leftovers_removed(start):
    """By the first worker that starts. A create finds the sandbox there; its Service is used as it is."""
    system = await start(workers=0)
    await system.core.create_namespace({"metadata": {"name": system.namespace}})
    await make_older(system, "left-over", has_pod=False)
    await make_older(system, "older")
    ((pod,), (service,)) = await system.pods("older"), await system.services("older")
    await system.stack.start_worker()
    answer = await system.until_ready("older")
    assert answer["status"] == "Running"
    assert answer["sandbox_url"].endswith(f":{service.spec.ports[0].node_port}")
    assert (await system.fetch(answer["sandbox_url"]))["uid"] == pod.metadata.uid
    await system.until(lambda: has_no_service(system, "left-over"), "the Service without a Pod is removed")
    assert await system.create("older") == answer
    assert [p.metadata.uid for p in await system.pods()] == [pod.metadata.uid]
    await system.delete("older")
    await system.until(lambda: is_gone(system, "older"), "it is forgotten", lambda: system.read("older"))
    await at_rest(system, [])
    await system.create("older")
    await at_rest(system, ["older"])


async def test_what_the_older_provisioner_makes_beside_us_is_adopted_too(start):
    """Both run for a while in an upgrade: its Service comes a moment after its Pod."""
    system = await start_beside_theirs(start)
    answer = await system.until_ready("theirs")
    await serves_and_goes(system, answer["sandbox_url"])


async def test_an_older_sandbox_that_loses_its_service_gets_one_that_reaches_its_pod(start):
    """Its Pod has no label that tells its life."""
    system = await start_beside_theirs(start)
    await system.until_ready("theirs")
    (before,) = await system.services("theirs")
    await delete_service(system, before.metadata.name)

    async def served_anew() -> dict[str, Any] | None:
        after = [s.metadata.uid for s in await system.services("theirs")]
        answer = await system.read("theirs")
        return answer if answer["sandbox_url"] and after and before.metadata.uid not in after else None

    answer = await system.until(served_anew, "it has another Service", lambda: system.read("theirs"))
    await serves_and_goes(system, answer["sandbox_url"])


async def start_beside_theirs(start: Start) -> System:
    """A sandbox of ours is ready when the legacy provisioner makes one too."""
    system = await start(workers=2)
    await system.create("ours")
    await system.until_ready("ours")
    await make_older(system, "theirs")
    return system


async def serves_and_goes(system: System, url: str) -> None:
    """Theirs answers with its own Pod, and is deleted like any other."""
    (pod,) = await system.pods("theirs")
    assert (await system.fetch(url))["uid"] == pod.metadata.uid
    await system.delete("theirs")
    await at_rest(system, ["ours"])


async def test_sandboxes_wait_for_node_ports_and_get_those_that_others_give_back(start):
    """They say what they wait for, none is Failed for it."""
    system = await start(workers=2, emulator=FEW_PORTS)
    ids = [f"port-{number}" for number in range(PORTS + 3)]
    async with Load(system) as load:
        await asyncio.gather(*map(load.create, ids))
        waiting = await system.until(lambda: without_ports(system, ids), "all but three have a URL and they say why")
        served = sorted(set(ids) - waiting)
        await asyncio.gather(*map(system.until_ready, served))
        assert await without_ports(system, ids) == waiting
        await asyncio.gather(*map(load.delete, served[:3]))
        await at_rest(system, load.wanted)
        assert load.wanted == set(ids) - set(served[:3])
    assert load.lies == []


async def without_ports(system: System, ids: list[str]) -> set[str]:
    """Ids of those that wait for a node port, once the others have all there are."""
    answers = await asyncio.gather(*map(system.read, ids))
    waiting = {a["sandbox_id"] for a in answers if a["reason"] == "NodePortsExhausted" and a["sandbox_url"] is None}
    served = {a["sandbox_id"] for a in answers if a["sandbox_url"]}
    return waiting if len(served) == PORTS and waiting | served == set(ids) else set()


async def failed(system: System, sandbox_id: str) -> dict[str, Any] | None:
    answer = await system.read(sandbox_id)
    return answer if answer.get("status") == "Failed" else None


async def is_gone(system: System, sandbox_id: str) -> bool:
    return (await system.api.get(f"/api/sandboxes/{sandbox_id}")).status_code == 404


async def has_no_service(system: System, sandbox_id: str) -> bool:
    return not await system.services(sandbox_id)


async def delete_pod(system: System, name: str) -> None:
    """At once, as `kubectl delete pod --grace-period 0` does."""
    await system.core.delete_namespaced_pod(name, system.namespace, grace_period_seconds=0)


async def delete_service(system: System, name: str) -> None:
    await system.core.delete_namespaced_service(name, system.namespace)


def unrecorded(sandbox_id: str) -> Sandbox:
    """What a record was that nobody has any more; its Pod remembers it. The same one each time."""
    spec = Spec(user_id="u7", thread_id="t7")
    record = new_record(sandbox_id, spec, cluster="default", now=CREATED_AT)
    return msgspec.structs.replace(record, token="0a1b2c3d")


def settings_of(system: System) -> Settings:
    """Those of its workers, as far as a manifest needs them."""
    return read_settings({**os.environ, **system.stack.options.environment})


async def make_pod(system: System, pod: object) -> Any:
    return await system.core.create_namespaced_pod(system.namespace, msgspec.to_builtins(pod))


async def make_service(system: System, service: object) -> Any:
    return await system.core.create_namespaced_service(system.namespace, msgspec.to_builtins(service))


async def make_older(system: System, sandbox_id: str, *, has_pod: bool = True) -> None:
    """As DeerFlow's legacy provisioner did it: no label for the life, no annotation, no owner."""
    text = OLDER.read_text()
    asked = msgspec.json.decode(text)["request"]["sandbox_id"]
    objects = msgspec.json.decode(text.replace(asked, sandbox_id))
    for each in (objects["pod"], objects["service"]):
        each["metadata"]["namespace"] = system.namespace
    if has_pod:
        await make_pod(system, objects["pod"])
    try:
        await make_service(system, objects["service"])
    except ApiException as error:
        if error.status != HTTPStatus.CONFLICT:  # the Pod was adopted already, and has one from us
            raise
