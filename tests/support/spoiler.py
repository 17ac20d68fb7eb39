"""A server between a client and the emulator that replaces objects in lists by odd ones."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web


class Spoiler:
    """`odd` maps names to what is put in the place of those objects in lists. `{uid}` in it stands for the real uid."""

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.odd: dict[str, str] = {}
        self._target = target
        self._session = session

    async def forward(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        url = f"{self._target}{request.path_qs}"
        async with self._session.request(request.method, url, headers=headers, data=await request.read()) as response:
            body = await response.read()
        document = json.loads(body)
        if "items" in document:
            items = ", ".join(map(self._spoil, document.pop("items")))
            body = f'{json.dumps(document)[:-1]}, "items": [{items}]}}'.encode()
        return web.Response(status=response.status, body=body, content_type="application/json")

    def _spoil(self, item: dict[str, Any]) -> str:
        odd = self.odd.get(item["metadata"]["name"])
        return json.dumps(item) if odd is None else odd.replace("{uid}", item["metadata"]["uid"])


@asynccontextmanager
async def spoiling(target: str) -> AsyncIterator[Spoiler]:
    """Run a server in front of the one at `target`. Watches are not forwarded."""
    async with aiohttp.ClientSession() as session:
        spoiler = Spoiler(target, session)
        runner = web.ServerRunner(web.Server(spoiler.forward))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        spoiler.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield spoiler
        finally:
            await runner.cleanup()
