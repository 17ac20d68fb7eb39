"""The demo: creates, uses and deletes three sandboxes, and shows the milliseconds to each stage."""

import asyncio
import sys
import time
from collections.abc import Callable

import httpx

STAGES = ("accepted", "url", "ready", "fetched", "deleted", "gone")
SANDBOXES = ("demo-1", "demo-2", "demo-3")
STAGE_SECONDS = 120.0
"""Time limit of a stage. A real cluster may pull an image; the emulated one needs one second for all stages."""
POLL_SECONDS = 0.02

Times = dict[str, dict[str, float]]
"""Sandbox id → stage → milliseconds since the create."""


class DemoFailed(Exception):
    """Names the sandbox, the stage that it did not reach, and the last response."""


async def demo(api: httpx.AsyncClient) -> int:
    """Run the demo and print the table; return the exit code."""
    times: Times = {name: {} for name in SANDBOXES}
    table = Table(times)
    results = await asyncio.gather(*(run(api, n, times[n], table.update) for n in SANDBOXES), return_exceptions=True)
    table.finish()
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


async def run(api: httpx.AsyncClient, name: str, times: dict[str, float], on_stage: Callable[[], None]) -> None:
    """Take one sandbox through all stages.

    Raises:
        DemoFailed: the sandbox did not reach a stage.
    """
    started_at = time.perf_counter()
    sandbox = DemoSandbox(api, name)
    steps = {
        "accepted": sandbox.create,
        "url": lambda: sandbox.wait_for("sandbox_url"),
        "ready": lambda: sandbox.wait_for("ready"),
        "fetched": sandbox.fetch,
        "deleted": sandbox.delete,
        "gone": sandbox.wait_until_gone,
    }
    for stage, step in steps.items():
        try:
            async with asyncio.timeout(STAGE_SECONDS):
                await step()
        except (httpx.HTTPError, TimeoutError, KeyError, ValueError) as error:
            cause = str(error) or type(error).__name__
            raise DemoFailed(
                f"{name} did not reach `{stage}`: {cause}; last response: {sandbox.last_response}"
            ) from error
        times[stage] = (time.perf_counter() - started_at) * 1000
        on_stage()


class DemoSandbox:
    """A sandbox, as a client of the API sees it. `last_response` explains a failure."""

    def __init__(self, api: httpx.AsyncClient, name: str) -> None:
        self._api = api
        self._path = f"/api/sandboxes/{name}"
        self._name = name
        self.last_response = ""

    async def create(self) -> None:
        await self._request("POST", "/api/sandboxes", json={"sandbox_id": self._name})

    async def wait_for(self, field: str) -> None:
        while not (await self._request("GET", self._path)).json()[field]:
            await asyncio.sleep(POLL_SECONDS)

    async def fetch(self) -> None:
        url = (await self._request("GET", self._path)).json()["sandbox_url"]
        await self._request("GET", f"{url}/v1/sandbox")

    async def delete(self) -> None:
        await self._request("DELETE", self._path)

    async def wait_until_gone(self) -> None:
        while (await self._api.get(self._path)).json().get("status") == "Terminating":
            await asyncio.sleep(POLL_SECONDS)

    async def _request(self, method: str, url: str, json: object = None) -> httpx.Response:
        response = await self._api.request(method, url, json=json)
        self.last_response = response.text
        response.raise_for_status()
        if "/api/" in url and response.json().get("status") in {"Failed", "Succeeded"}:
            raise ValueError("the sandbox ended by itself")
        return response


class Table:
    """The times, redrawn in place on a terminal, and otherwise printed once at the end."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._is_terminal = sys.stdout.isatty()
        self._is_drawn = False

    def update(self) -> None:
        if self._is_terminal:
            self._draw()

    def finish(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._is_drawn and self._is_terminal:
            print(f"\x1b[{len(self._times) + 1}A", end="")
        self._is_drawn = True
        print(f"{'ms':<8}" + "".join(f"{stage:>10}" for stage in STAGES))
        for name, times in self._times.items():
            print(
                f"{name:<8}" + "".join(f"{times[s]:>10.0f}" if s in times else f"{'…':>10}" for s in STAGES), flush=True
            )
