"""Faults that can happen to a system at any time. After each fault the system must come to rest by itself."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

import aiohttp
from kubernetes_asyncio import client

from deploy.local.processes import Process
from tests.system.conftest import System
from tests.system.load import RETRY_SECONDS
from tests.system.walk.model import Model
from worker.kubernetes.labels import INCARNATION

Rules = tuple[dict[str, object], ...]

CLUSTER_FAULTS: dict[str, Rules] = {
    "Kubernetes errors": (
        {"kind": "error", "share": 0.3, "status": 500},
        {"kind": "error", "share": 0.1, "status": 429, "retry_after": 1},
        {"kind": "error", "share": 0.1, "status": 500, "verb": "create", "after": True},
    ),
    "Kubernetes resets": ({"kind": "reset", "share": 0.2}, {"kind": "reset", "share": 0.1, "after": True}),
    "Kubernetes slow": (
        {"kind": "delay", "seconds": 0.5, "share": 0.5},
        {"kind": "delay", "seconds": 2.0, "share": 0.1, "after": True},
    ),
    "Kubernetes away": ({"kind": "unavailable", "seconds": 5.0},),
    "watches closed": ({"kind": "watch-close", "seconds": 0.5},),
    "watches expired": ({"kind": "watch-expired"},),
    "watches silent": ({"kind": "watch-stall"},),
}
"""Lasting faults of the cluster: names, and the emulator's rules."""


class Faults:
    """Each method that starts a fault returns False if there is nothing that the fault could hit."""

    def __init__(self, system: System, model: Model) -> None:
        self._system = system
        self._model = model
        self._frozen: list[Process] = []
        self._cluster_faults: set[str] = set()

    async def kill_worker(self, random: Random) -> bool:
        worker = random.choice(self._alive())
        await worker.kill()
        self._frozen = [frozen for frozen in self._frozen if frozen is not worker]
        await self._system.stack.start_worker()
        return True

    async def freeze_worker(self, random: Random) -> bool:
        """Freeze a worker, unless it is the only one that runs."""
        running = [worker for worker in self._alive() if worker not in self._frozen]
        if len(running) < 2:
            return False
        self._frozen.append(random.choice(running))
        self._frozen[-1].signal(signal.SIGSTOP)
        return True

    async def thaw(self) -> None:
        for worker in self._frozen:
            worker.signal(signal.SIGCONT)
        self._frozen = []

    async def kill_api(self, random: Random) -> bool:
        number = random.randrange(len(self._system.stack.apis))
        await self._system.stack.apis[number].kill()
        await self._system.stack.restart_api(number)
        return True

    async def kill_valkey(self, _: Random) -> bool:
        await self._system.stack.valkey.kill()
        await self._system.stack.start_valkey()
        return True

    async def stop_valkey(self, _: Random) -> bool:
        await self._system.stack.valkey.stop()
        await self._system.stack.start_valkey()
        return True

    async def flush(self, _: Random) -> bool:
        """Empty Valkey. Only at rest: an accepted sandbox without a Pod exists nowhere else."""
        await self._system.redis.flushall()
        return True

    async def add_cluster_fault(self, name: str) -> bool:
        self._cluster_faults.add(name)
        await self._set_cluster_faults()
        return True

    async def remove_cluster_fault(self, name: str) -> None:
        self._cluster_faults.discard(name)
        await self._set_cluster_faults()

    async def end_all(self) -> None:
        """End all lasting faults."""
        await self.thaw()
        self._cluster_faults.clear()
        await self._set_cluster_faults()

    async def delete_pod(self, random: Random) -> bool:
        """Delete the Pod of a ready sandbox, whose record therefore names the Pod. With grace period or without."""
        with self._model.any_of(self._model.expected, random) as sandbox_id:
            _, body = await self._model.read(sandbox_id)
            if not sandbox_id or not body.get("ready"):
                return False
            for pod in await self._retry(lambda: self._system.pods(sandbox_id)) or []:
                is_terminating = pod.metadata.deletion_timestamp is not None
                if not is_terminating and _generation(pod) == body["generation"]:
                    self._model.lose(sandbox_id, body["generation"])
                    await self._delete(self._system.core.delete_namespaced_pod, pod, random.choice((None, 0)))
                    return True
            return False

    async def delete_service(self, random: Random) -> bool:
        with self._model.any_of(self._model.expected, random) as sandbox_id:
            services = await self._retry(lambda: self._system.services(sandbox_id)) if sandbox_id else []
            for service in services or []:
                await self._delete(self._system.core.delete_namespaced_service, service, None)
            return bool(services)

    def _alive(self) -> list[Process]:
        return [worker for worker in self._system.stack.workers if worker.exit_code is None]

    async def _set_cluster_faults(self) -> None:
        await self._system.faults(*(rule for name in sorted(self._cluster_faults) for rule in CLUSTER_FAULTS[name]))

    async def _delete(self, delete: Callable[..., Awaitable[Any]], item: Any, grace_seconds: int | None) -> None:
        preconditions = client.V1Preconditions(uid=item.metadata.uid)
        options = client.V1DeleteOptions(grace_period_seconds=grace_seconds, preconditions=preconditions)
        await self._retry(lambda: delete(item.metadata.name, self._system.namespace, body=options))

    async def _retry(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of `call`, whatever faults the cluster has; None if the object is gone or replaced."""
        while True:
            try:
                return await call()
            except client.ApiException as error:
                if error.status in {404, 409}:
                    return None
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(RETRY_SECONDS)


def _generation(pod: Any) -> int:
    return int(pod.metadata.labels[INCARNATION].partition("-")[0])


class Fault(NamedTuple):
    """A fault without `end` is over as soon as it is done."""

    name: str
    begin: Callable[[Faults, Random], Awaitable[bool]]
    end: Callable[[Faults], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _cluster_fault(name: str) -> Fault:
    return Fault(name, lambda faults, _: faults.add_cluster_fault(name), lambda f: f.remove_cluster_fault(name))


FAULTS = (
    Fault("worker killed", Faults.kill_worker),
    Fault("worker frozen", Faults.freeze_worker, Faults.thaw),
    Fault("API killed", Faults.kill_api),
    Fault("Valkey killed", Faults.kill_valkey),
    Fault("Valkey stopped", Faults.stop_valkey),
    Fault("Pod deleted", Faults.delete_pod),
    Fault("Service deleted", Faults.delete_service),
    *map(_cluster_fault, CLUSTER_FAULTS),
)
FLUSH = Fault("Valkey emptied", Faults.flush)
"""Not among FAULTS: only at rest."""
