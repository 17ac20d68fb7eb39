"""What may happen to a system at any time. Each fault leaves it such that it must come to rest again by itself."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

import aiohttp
from kubernetes_asyncio import client

from deploy.local.processes import Process
from tests.system.conftest import System
from tests.system.load import AGAIN_SECONDS
from tests.system.walk.model import Model
from worker.kubernetes.labels import INCARNATION

Rules = tuple[dict[str, object], ...]

TROUBLES: dict[str, Rules] = {
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
"""Names of what the cluster does wrong for a while, and the emulator's rules for it."""


class Faults:
    """A method returns whether there was anything to do it to."""

    def __init__(self, system: System, model: Model) -> None:
        self._system = system
        self._model = model
        self._frozen: list[Process] = []
        self._troubles: set[str] = set()

    async def kill_worker(self, random: Random) -> bool:
        worker = random.choice(self._alive())
        await worker.kill()
        self._frozen = [frozen for frozen in self._frozen if frozen is not worker]
        await self._system.stack.start_worker()
        return True

    async def freeze_worker(self, random: Random) -> bool:
        """One other goes on."""
        awake = [worker for worker in self._alive() if worker not in self._frozen]
        if len(awake) < 2:
            return False
        self._frozen.append(random.choice(awake))
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
        """Only at rest: what was accepted and is not in the cluster yet stands nowhere else."""
        await self._system.redis.flushall()
        return True

    async def worsen(self, trouble: str) -> bool:
        self._troubles.add(trouble)
        await self._misbehave()
        return True

    async def ease(self, trouble: str) -> None:
        self._troubles.discard(trouble)
        await self._misbehave()

    async def end(self) -> None:
        """Of all that lasts."""
        await self.thaw()
        self._troubles.clear()
        await self._misbehave()

    async def delete_pod(self, random: Random) -> bool:
        """Of a sandbox that is ready, hence whose record knows it: with its grace, or by force."""
        with self._model.any_of(self._model.wanted, random) as sandbox_id:
            _, answer = await self._model.seen(sandbox_id)
            if not sandbox_id or not answer.get("ready"):
                return False
            for pod in await self._insist(lambda: self._system.pods(sandbox_id)) or []:
                is_terminating = pod.metadata.deletion_timestamp is not None
                if not is_terminating and _generation(pod) == answer["generation"]:
                    self._model.lose(sandbox_id, answer["generation"])
                    await self._delete(self._system.core.delete_namespaced_pod, pod, random.choice((None, 0)))
                    return True
            return False

    async def delete_service(self, random: Random) -> bool:
        with self._model.any_of(self._model.wanted, random) as sandbox_id:
            services = await self._insist(lambda: self._system.services(sandbox_id)) if sandbox_id else []
            for service in services or []:
                await self._delete(self._system.core.delete_namespaced_service, service, None)
            return bool(services)

    def _alive(self) -> list[Process]:
        return [worker for worker in self._system.stack.workers if worker.exit_code is None]

    async def _misbehave(self) -> None:
        await self._system.faults(*(rule for name in sorted(self._troubles) for rule in TROUBLES[name]))

    async def _delete(self, delete: Callable[..., Awaitable[Any]], thing: Any, grace: int | None) -> None:
        options = client.V1DeleteOptions(grace_period_seconds=grace, preconditions={"uid": thing.metadata.uid})
        await self._insist(lambda: delete(thing.metadata.name, self._system.namespace, body=options))

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Its answer, whatever troubles the cluster has; None: what it is about is not there, or another one is."""
        while True:
            try:
                return await call()
            except client.ApiException as error:
                if error.status in {404, 409}:
                    return None
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(AGAIN_SECONDS)


def _generation(pod: Any) -> int:
    return int(pod.metadata.labels[INCARNATION].partition("-")[0])


class Fault(NamedTuple):
    """`end` None: it is over as soon as it is done."""

    name: str
    begin: Callable[[Faults, Random], Awaitable[bool]]
    end: Callable[[Faults], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _trouble(name: str) -> Fault:
    return Fault(name, lambda faults, _: faults.worsen(name), lambda faults: faults.ease(name))


FAULTS = (
    Fault("worker killed", Faults.kill_worker),
    Fault("worker frozen", Faults.freeze_worker, Faults.thaw),
    Fault("API killed", Faults.kill_api),
    Fault("Valkey killed", Faults.kill_valkey),
    Fault("Valkey stopped", Faults.stop_valkey),
    Fault("Pod deleted", Faults.delete_pod),
    Fault("Service deleted", Faults.delete_service),
    *map(_trouble, TROUBLES),
)
FLUSH = Fault("Valkey emptied", Faults.flush)
"""Apart: only at rest."""
