"""Each recorded request of a real Kubernetes 1.36.2 gets the recorded response, field by field."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from deploy.local.emulator.client import Client
from tests.deploy.emulator import worlds
from tests.deploy.emulator.replay import Object, check, expected, lines, normalize
from tests.support.transcripts import DIRECTORY, exchanges

pytestmark = pytest.mark.anyio

OWN_TESTS = {
    "watch-pod-life",
    "watch-service-life",
    "watch-future",
    "watch-too-old",
    "unauthorized",
    "list-continue",
    "service-node-port-asked",
}
NAMES = sorted({path.stem for path in DIRECTORY.glob("*.json")} - OWN_TESTS)


@pytest.mark.parametrize("name", NAMES)
async def test_recorded_request_gets_recorded_response(start: Callable[..., Awaitable[Client]], name: str):
    long_termination = {"termination_seconds": 5.0} if name == "pod-delete-terminating" else {}
    client = await start(**long_termination)
    uids = await worlds.WORLDS.get(name, worlds.namespace)(client) or {}
    for number, exchange in enumerate(exchanges(name)):
        waits = name.startswith("pod-stuck") or (name == "owner-reference" and number == 2)
        await check(client, exchange, uids, eventually=waits)


async def test_request_with_wrong_token_gets_401(client: Client):
    [exchange] = exchanges("unauthorized")
    client.http.headers["Authorization"] = "Bearer wrong"
    await check(client, exchange, {})


async def test_service_with_requested_node_port_gets_it_only_if_free(client: Client):
    """The port is released between the first and the second exchange."""
    await worlds.second_namespace(client)
    taken, free, out_of_range = exchanges("service-node-port-asked")
    await client.create("services", {**taken["request"]["body"], "metadata": {"name": "one"}})
    await check(client, taken, {})
    await client.delete("services", "one")
    await check(client, free, {})
    await check(client, out_of_range, {})


async def test_list_with_continue_token_returns_next_page_of_snapshot(client: Client):
    """The recorded continue token is replaced by the current one."""
    await worlds.stuck_pods(client)
    first, second, bogus = exchanges("list-continue")

    async def first_page() -> Object | None:
        response = await client.call("GET", first["request"]["path"])
        return response.body if (response.status, normalize(response.body)) == expected(first) else None

    token = (await client.until(first_page))["metadata"]["continue"]
    response = await client.call("GET", first["request"]["path"] + f"&continue={token}")
    assert lines((response.status, normalize(response.body))) == lines(expected(second))
    await check(client, bogus, {})


async def test_watch_from_old_version_gets_expired_event(client: Client):
    [exchange] = exchanges("watch-too-old")
    response = await client.http.get(exchange["request"]["path"])
    assert (response.status_code, normalize(msgspec.json.decode(response.content))) == expected(exchange)


async def test_watch_from_future_version_stays_silent(client: Client):
    """The timeout is one second instead of the recorded four."""
    [exchange] = exchanges("watch-future")
    response = await client.http.get(exchange["request"]["path"].replace("timeoutSeconds=4", "timeoutSeconds=1"))
    assert (response.status_code, response.text) == expected(exchange)


async def check_watch(client: Client, name: str, path: str) -> None:
    """Compare all events. Of the bookmarks only the last one is compared, because their times differ."""
    recorded = exchanges(name)[0]["events"]
    events: list[Object] = []
    async with client.http.stream("GET", path) as response:
        async for line in response.aiter_lines():
            events.append(msgspec.json.decode(line))
            if events[-1]["type"] == "BOOKMARK" and any(event["type"] == "DELETED" for event in events):
                break

    def split(events: list[Object]) -> tuple[list[Any], Any]:
        return [normalize(event) for event in events if event["type"] != "BOOKMARK"], normalize(events[-1])

    assert lines(split(events)) == lines(split(recorded))


async def test_watch_shows_lifecycle_of_pod_as_recorded(start: Callable[..., Awaitable[Client]]):
    client = await start(bookmark_seconds=0.4)
    await worlds.namespace(client)
    path = exchanges("watch-pod-life")[0]["request"]["path"]
    version = (await client.list("pods")).body["metadata"]["resourceVersion"]
    await client.create("pods", worlds.POD)
    await client.ready("life")
    await client.delete("pods", "life")
    await check_watch(client, "watch-pod-life", path.replace("=286", f"={version}"))


async def test_watch_shows_lifecycle_of_service_as_recorded(start: Callable[..., Awaitable[Client]]):
    """The recorded path is cut off. Its bookmarks show that the request asked for them."""
    client = await start(bookmark_seconds=0.4)
    await worlds.namespace(client)
    version = (await client.list("services")).body["metadata"]["resourceVersion"]
    await client.create("services", worlds.SERVICE)
    await client.delete("services", "life-svc")
    path = exchanges("watch-service-life")[0]["request"]["path"]
    await check_watch(client, "watch-service-life", f"{path}&allowWatchBookmarks=true&resourceVersion={version}")
