"""One life of three sandboxes, as a user sees it: created, URL, ready, fetched, deleted, gone; milliseconds each."""

import asyncio
import sys
import time
from collections.abc import Callable

import httpx

STAGES = ("accepted", "url", "ready", "fetched", "deleted", "gone")
SANDBOXES = ("demo-1", "demo-2", "demo-3")
STAGE_SECONDS = 120.0
"""For a real cluster that pulls an image; the emulated one takes a second for all."""
POLL_SECONDS = 0.02

Times = dict[str, dict[str, float]]


class DemoFailed(Exception):
    """Names the sandbox, the stage it did not reach, and what was last seen of it."""


async def demo(api: httpx.AsyncClient) -> int:
    """Plays it and shows the table; 0, or 1 with what failed."""
    times: Times = {name: {} for name in SANDBOXES}
    table = Table(times)
    results = await asyncio.gather(*(live(api, n, times[n], table.show) for n in SANDBOXES), return_exceptions=True)
    table.end()
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


async def live(api: httpx.AsyncClient, name: str, times: dict[str, float], show: Callable[[], None]) -> None:
    """Raises DemoFailed."""
    started = time.perf_counter()
    incarnation = Life(api, name)
    steps = {
        "accepted": incarnation.create,
        "url": lambda: incarnation.until("sandbox_url"),
        "ready": lambda: incarnation.until("ready"),
        "fetched": incarnation.fetch,
        "deleted": incarnation.delete,
        "gone": incarnation.gone,
    }
    for stage, step in steps.items():
        try:
            async with asyncio.timeout(STAGE_SECONDS):
                await step()
        except (httpx.HTTPError, TimeoutError, KeyError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise DemoFailed(f"{name} was not `{stage}`: {why}; last seen: {incarnation.seen}") from error
        times[stage] = (time.perf_counter() - started) * 1000
        show()


class Life:
    """One sandbox through the API; `seen` is the last answer, for whoever has to explain a failure."""

    def __init__(self, api: httpx.AsyncClient, name: str) -> None:
        self._api = api
        self._path = f"/api/sandboxes/{name}"
        self._name = name
        self.seen = ""

    async def create(self) -> None:
        await self._ask("POST", "/api/sandboxes", json={"sandbox_id": self._name})

    async def until(self, field: str) -> None:
        while not (await self._ask("GET", self._path)).json()[field]:
            await asyncio.sleep(POLL_SECONDS)

    async def fetch(self) -> None:
        url = (await self._ask("GET", self._path)).json()["sandbox_url"]
        await self._ask("GET", f"{url}/v1/sandbox")

    async def delete(self) -> None:
        await self._ask("DELETE", self._path)

    async def gone(self) -> None:
        while (await self._api.get(self._path)).json().get("status") == "Terminating":
            await asyncio.sleep(POLL_SECONDS)

    async def _ask(self, method: str, url: str, json: object = None) -> httpx.Response:
        response = await self._api.request(method, url, json=json)
        self.seen = response.text
        response.raise_for_status()
        if "/api/" in url and response.json().get("status") in {"Failed", "Succeeded"}:
            raise ValueError("it ended by itself")
        return response


class Table:
    """On a terminal redrawn in place; elsewhere printed once, at the end."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._live = sys.stdout.isatty()
        self._drawn = False

    def show(self) -> None:
        if self._live:
            self._draw()

    def end(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._drawn and self._live:
            print(f"\x1b[{len(self._times) + 1}A", end="")
        self._drawn = True
        print(f"{'ms':<8}" + "".join(f"{stage:>10}" for stage in STAGES))
        for name, times in self._times.items():
            print(
                f"{name:<8}" + "".join(f"{times[s]:>10.0f}" if s in times else f"{'…':>10}" for s in STAGES), flush=True
            )
