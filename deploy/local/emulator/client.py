"""A small client of the emulator, for tests and for work by hand. It returns responses as they are."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx
import msgspec

from deploy.local.emulator.base.statuses import Object

_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.01
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; without it, httpx loads all authorities for each client


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: Any  # decoded if the response is JSON, else text
    headers: httpx.Headers


class Client:
    """A client of one emulator, as its only user, in one namespace."""

    def __init__(self, url: str, token: str, namespace: str = "default") -> None:
        self.namespace = namespace
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
            verify=_NO_TLS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": content_type}
        response = await self.http.request(method, path, content=content, headers=headers)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return Response(response.status_code, response.json() if is_json else response.text, response.headers)

    def path(self, resource: str, name: str = "") -> str:
        scope = "" if resource in {"namespaces", "nodes"} else f"/namespaces/{self.namespace}"
        return f"/api/v1{scope}/{resource}" + (f"/{name}" if name else "")

    async def create(self, resource: str, body: Object) -> Response:
        return await self.call("POST", self.path(resource), body)

    async def get(self, resource: str, name: str) -> Response:
        return await self.call("GET", self.path(resource, name))

    async def list(self, resource: str, query: str = "") -> Response:
        return await self.call("GET", f"{self.path(resource)}?{query}")

    async def delete(self, resource: str, name: str, options: Object | None = None) -> Response:
        return await self.call("DELETE", self.path(resource, name), options)

    async def watch(self, resource: str, query: str = "") -> AsyncIterator[Object]:
        """Yield events until the server ends the stream."""
        async with self.http.stream("GET", f"{self.path(resource)}?watch=true&{query}") as response:
            async for line in response.aiter_lines():
                yield msgspec.json.decode(line)

    async def faults(self, *rules: Object) -> Response:
        """Replace all rules. No rules: the emulator works without faults."""
        return await self.call("PUT", "/emulator/faults", list(rules))

    async def until(self, poll: Callable[[], Awaitable[Any]], seconds: float = 5.0) -> Any:
        """Call `poll` until its result is true, and return the result.

        Raises:
            TimeoutError: the time is over.
        """
        async with asyncio.timeout(seconds):
            while not (result := await poll()):
                await asyncio.sleep(_POLL_SECONDS)
        return result

    async def pod_where(self, name: str, condition: Callable[[Object], Any]) -> Object:
        """Wait until the Pod meets a condition, and return the Pod."""

        async def matching_pod() -> Object | None:
            pod = await self.get("pods", name)
            return pod.body if pod.status == httpx.codes.OK and condition(pod.body) else None

        pod: Object = await self.until(matching_pod)
        return pod

    async def ready(self, name: str) -> Object:
        """Wait until the Pod is ready, and return the Pod."""
        return await self.pod_where(name, is_ready)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
