"""`python -m tests.bench.scaling`: creates a second with one worker, two and four, while Kubernetes is not the limit.

Each call to the emulated cluster takes 50 ms longer, and each worker runs two jobs at once, so that its time goes into
waiting, as it does before a real cluster, and not into the two cores that all processes here share.
"""

import asyncio
import sys
import time

import httpx

from deploy.local.processes import quiet
from deploy.local.stack import Options, Stack

CALL_SECONDS = 0.05
JOBS_AT_ONCE = 2
SECONDS = 8
"""Of work that each worker is given; all of it is in the queue before the first is looked for."""
WORKERS = (1, 2, 4)


async def rate(workers: int) -> float:
    """Sandboxes that got their URL a second."""
    environment = {"WORKER_MAX_JOBS": str(JOBS_AT_ONCE), "K8S_NAMESPACE": "scaling"}
    async with Stack(Options(workers=workers, port=0, environment=environment, show=quiet)) as stack:
        await _slow(stack)
        headers = {"X-API-Key": stack.key}
        async with httpx.AsyncClient(base_url=stack.urls[0], headers=headers, timeout=60) as api:
            count = int(SECONDS * workers * JOBS_AT_ONCE / (2 * CALL_SECONDS))
            began = time.monotonic()
            await asyncio.gather(*(api.post("/api/sandboxes", json={"sandbox_id": f"s{n}"}) for n in range(count)))
            while (made := await _made(api)) < count:
                if time.monotonic() > began + 8 * SECONDS:
                    raise TimeoutError(f"{made} of {count} made in {8 * SECONDS} s")
                await asyncio.sleep(0.1)
            return count / (time.monotonic() - began)


async def _made(api: httpx.AsyncClient) -> int:
    sandboxes = (await api.get("/api/sandboxes")).raise_for_status().json()["sandboxes"]
    return sum(sandbox["sandbox_url"] is not None for sandbox in sandboxes)


async def _slow(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.emulator_token}"}
    rules = [{"kind": "delay", "seconds": CALL_SECONDS, "verb": "create"}]
    async with httpx.AsyncClient(base_url=stack.emulator_url, headers=headers) as emulator:
        (await emulator.put("/emulator/faults", json=rules)).raise_for_status()


async def main() -> None:
    rates = {workers: await rate(workers) for workers in WORKERS}
    for workers, each in rates.items():
        sys.stdout.write(f"{workers} workers: {each:.1f} creates/s, {each / rates[1]:.2f} times one worker's\n")


if __name__ == "__main__":
    asyncio.run(main())
