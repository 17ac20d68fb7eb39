"""Records of sandboxes that live, written straight into Redis with the product's own store and moves: no Pods."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from shared.sandbox.expiry import expiry_policy
from shared.sandbox.names import object_name as pod_name
from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects, new_record, provisioned, started
from shared.store.store import Store
from shared.store.update import Mutate, Update
from tests.bench.system import System

ELSEWHERE = "elsewhere"
"""A cluster that no worker here observes: nobody misses the Pods of these records, yet they are in every index."""
AT_ONCE = 32

T = TypeVar("T")


def made(record: Sandbox, pod_uid: str, service_uid: str) -> ProvisionedObjects:
    return ProvisionedObjects(pod_name(record.id, record.incarnation), pod_uid, service_uid, "http://192.0.2.10:31167")


def stages(record: Sandbox, pod_uid: str, service_uid: str) -> list[Sandbox]:
    """A life from acceptance till it is ready, in the steps in which the product writes it."""
    now = record.created_at
    begun = provisioned(started(record, now + 0.01), made(record, pod_uid, service_uid), now=now + 0.05)
    on_node = replace(begun, pod_uid=pod_uid, timings=replace(begun.timings, scheduled=now + 0.06))
    running = replace(on_node, status=Status.RUNNING, timings=replace(on_node.timings, running=now + 1))
    ready = replace(running, ready=True, deadline=None, timings=replace(running.timings, ready=now + 2))
    return [record, begun, on_node, running, ready]


def wanted(system: System, number: int, cluster: str) -> Sandbox:
    """A hundred users, as many threads as sandboxes."""
    spec = Spec(user_id=f"user-{number % 100}", thread_id=f"thread-{number:08}")
    return new_record(
        f"{number:016x}",
        spec,
        cluster=cluster,
        now=system.store.now(),
        deadline=system.store.now() + system.settings.provision_timeout_seconds,
        policy=expiry_policy(spec, system.settings),
    )


async def write(system: System, numbers: Iterable[int], cluster: str = ELSEWHERE) -> list[str]:
    """Running and ready, each in one step; their ids."""
    names: list[str] = []

    async def one(number: int) -> None:
        record = stages(wanted(system, number, cluster), f"pod-uid-{number:028}", f"service-uid-{number:024}")[-1]
        await put(system.store, [record])
        names.append(record.id)

    await each(one, numbers)
    return names


async def put(store: Store, steps: list[Sandbox]) -> None:
    for step in steps:
        await store.create_or_update(step.id, _to(step))


REMOVED = Update(None)


def _to(record: Sandbox) -> Mutate:
    return lambda _: Update(record)


async def each(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """AT_ONCE at a time."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(take() for _ in range(AT_ONCE)))
