"""A small client for whoever drives an emulator: tests, and a person with a prompt. It hides nothing of the answers."""

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
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; httpx would load all authorities for every client


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: Any  # JSON where it is, else text
    headers: httpx.Headers


class Client:
    """Speaks to one emulator, as the one user there is."""

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
        """Events until the server ends the stream."""
        async with self.http.stream("GET", f"{self.path(resource)}?watch=true&{query}") as response:
            async for line in response.aiter_lines():
                yield msgspec.json.decode(line)

    async def faults(self, *rules: Object) -> Response:
        """Replaces all rules; with none given, everything is well again."""
        return await self.call("PUT", "/emulator/faults", list(rules))

    async def until(self, poll: Callable[[], Awaitable[Any]], seconds: float = 5.0) -> Any:
        """Asks until the answer is true; it is the result. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not (result := await poll()):
                await asyncio.sleep(_POLL_SECONDS)
        return result

    async def pod_where(self, name: str, condition: Callable[[Object], Any]) -> Object:
        """The Pod, once that holds of it."""

        async def matching_pod() -> Object | None:
            pod = await self.get("pods", name)
            return pod.body if pod.status == httpx.codes.OK and condition(pod.body) else None

        matched: Object = await self.until(matching_pod)
        return matched

    async def ready(self, name: str) -> Object:
        return await self.pod_where(name, is_ready)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
