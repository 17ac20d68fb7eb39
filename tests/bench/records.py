"""Records of ready sandboxes without Pods, written into Redis with the product's own store and transitions."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from shared.sandbox.expiry import expiry_policy
from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox, Spec, Status
from shared.sandbox.transitions import ProvisionedObjects, new_record, provisioned, started
from shared.store.store import Store
from shared.store.update import Update
from tests.bench.system import System

OTHER_CLUSTER = "other"
"""A cluster without a leader. No leader reports the missing Pods of these records, but every index contains them."""
CONCURRENCY = 32

T = TypeVar("T")


def stages(record: Sandbox, pod_uid: str, service_uid: str) -> list[Sandbox]:
    """Return the records from create to ready, one for each write of the product."""
    now = record.created_at
    pod_name = object_name(record.id, record.incarnation)
    objects = ProvisionedObjects(pod_name, pod_uid, service_uid, "http://192.0.2.10:31167")
    with_objects = provisioned(started(record, now + 0.01), objects, now=now + 0.05)
    on_node = replace(with_objects, pod_uid=pod_uid, timings=replace(with_objects.timings, scheduled=now + 0.06))
    running = replace(on_node, status=Status.RUNNING, timings=replace(on_node.timings, running=now + 1))
    ready = replace(running, ready=True, deadline=None, timings=replace(running.timings, ready=now + 2))
    return [record, with_objects, on_node, running, ready]


def numbered_record(system: System, number: int, cluster: str) -> Sandbox:
    """Return the new record number `number`. All records together have a hundred users, and each its own thread."""
    spec = Spec(user_id=f"user-{number % 100}", thread_id=f"thread-{number:08}")
    return new_record(
        f"{number:016x}",
        spec,
        cluster=cluster,
        now=system.store.now(),
        deadline=system.store.now() + system.settings.provision_timeout_seconds,
        policy=expiry_policy(spec, system.settings),
    )


async def write_ready(system: System, numbers: Iterable[int], cluster: str = OTHER_CLUSTER) -> list[str]:
    """Write the records of ready sandboxes, each in one step, and return their ids."""
    ids: list[str] = []

    async def write(number: int) -> None:
        record = numbered_record(system, number, cluster)
        await put(system.store, stages(record, f"pod-uid-{number:028}", f"service-uid-{number:024}")[-1])
        ids.append(record.id)

    await for_each(write, numbers)
    return ids


async def put(store: Store, record: Sandbox) -> None:
    await store.create_or_update(record.id, lambda _: Update(record))


async def remove(store: Store, sandbox_id: str) -> None:
    await store.create_or_update(sandbox_id, lambda _: Update(None))


async def for_each(action: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Run `action` for all items, CONCURRENCY at a time."""
    remaining = iter(items)

    async def run() -> None:
        for item in remaining:
            await action(item)

    await asyncio.gather(*(run() for _ in range(CONCURRENCY)))
