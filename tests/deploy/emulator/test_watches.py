import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.local.emulator.base.options import Options
from deploy.local.emulator.client import Client
from deploy.local.emulator.runner import Emulator, run

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


async def take(client: Client, resource: str, query: str, count: int) -> list[dict[str, Any]]:
    """The first events of a watch."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        async for event in client.watch(resource, query):
            events.append(event)
            if len(events) == count:
                break
    return events


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def version(client: Client, resource: str = "services") -> str:
    return str((await client.list(resource)).body["metadata"]["resourceVersion"])


@pytest.mark.parametrize("query", ["", "resourceVersion=0"])
async def test_begins_with_what_is_there(client: Client, service: Make, query: str):
    await client.create("services", service("a"))
    await client.create("services", service("b"))
    assert told(await take(client, "services", query, 2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_resumes_after_a_version(client: Client, service: Make):
    await client.create("services", service("a"))
    seen = await version(client)
    await client.create("services", service("b"))
    await client.delete("services", "a")
    events = await take(client, "services", f"resourceVersion={seen}", 2)
    assert told(events) == [("ADDED", "b"), ("DELETED", "a")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert int(seen) < versions[0] < versions[1]


async def test_shows_what_happens_while_it_is_open(client: Client, service: Make):
    watching = asyncio.create_task(take(client, "services", "", 2))
    await client.until(lambda: calls(client, "watch services"))
    await client.create("services", service("a"))
    await client.delete("services", "a")
    assert told(await watching) == [("ADDED", "a"), ("DELETED", "a")]


async def calls(client: Client, what: str) -> int:
    return int((await client.call("GET", "/emulator/calls")).body.get(what, 0))


async def test_all_namespaces(client: Client, service: Make):
    seen = await version(client)
    await client.create("namespaces", {"metadata": {"name": "other"}})
    client.namespace = "other"
    await client.create("services", service("a"))
    path = f"/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={seen}"
    async with client.http.stream("GET", path) as response:
        line = await anext(response.aiter_lines())
    assert '"namespace":"other"' in line


async def test_an_object_that_stops_matching_is_deleted_for_the_watcher(client: Client, service: Make):
    """And one that starts to is added; the state shown as deleted is the last that matched."""
    seen = await version(client)
    await client.create("services", service("a"))
    for value in ("yes", "no", "yes"):
        patch = {"metadata": {"labels": {"wanted": value}}}
        await client.call("PATCH", client.path("services", "a"), patch, "application/merge-patch+json")
    events = await take(client, "services", f"resourceVersion={seen}&labelSelector=wanted%3Dyes", 3)
    assert told(events) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
    assert events[1]["object"]["metadata"]["labels"]["wanted"] == "yes"
    assert events[1]["object"]["metadata"]["resourceVersion"] > events[0]["object"]["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    "selector", ["fieldSelector=metadata.name%3Db", "labelSelector=n+in+(b)", "labelSelector=n%3Db"]
)
async def test_selectors(client: Client, pod: Make, selector: str):
    seen = await version(client)
    for name in "abc":
        await client.create("pods", pod(name, {"n": name}))
    assert told(await take(client, "pods", f"resourceVersion={seen}&{selector}", 1)) == [("ADDED", "b")]


async def test_bookmarks_say_how_far_one_has_seen(start: Start, service: Make):
    client = await start(bookmark_seconds=0.05)
    await client.create("services", service("a"))
    seen = await version(client)
    [bookmark] = await take(client, "services", f"resourceVersion={seen}&allowWatchBookmarks=true", 1)
    assert bookmark["type"] == "BOOKMARK"
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(seen)
    resumed = bookmark["object"]["metadata"]["resourceVersion"]
    await client.delete("services", "a")
    assert told(await take(client, "services", f"resourceVersion={resumed}", 1)) == [("DELETED", "a")]


async def test_a_bookmark_comes_before_the_end(client: Client):
    query = f"timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={await version(client)}"
    assert [event["type"] async for event in client.watch("services", query)] == ["BOOKMARK"]


async def test_initial_events_end_with_a_marked_bookmark(client: Client, service: Make):
    await client.create("services", service("a"))
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    events = await take(client, "services", query, 2)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_history_has_an_end(start: Start, service: Make):
    """A version whose changes are no longer all known: one ERROR event in an answer that is 200."""
    client = await start(history=3)
    seen = await version(client)
    for name in "abcd":
        await client.create("services", service(name))
    [event] = [event async for event in client.watch("services", f"resourceVersion={seen}")]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_expiring_makes_every_version_too_old(client: Client):
    seen = await version(client)
    await client.call("POST", "/emulator/expire")
    [event] = [event async for event in client.watch("services", f"resourceVersion={seen}")]
    assert event["object"]["message"].startswith(f"too old resource version: {seen} (")
    fresh = f"resourceVersion={await version(client)}&timeoutSeconds=1"
    assert [event async for event in client.watch("services", fresh)] == []


REFUSED = [
    ("labelSelector=a+b", 400),
    ("resourceVersion=abc", 400),
    ("sendInitialEvents=true", 422),
    ("fieldSelector=spec.ports%3D1", 400),
]


@pytest.mark.parametrize(("query", "status"), REFUSED)
async def test_a_watch_that_is_refused(client: Client, query: str, status: int):
    answer = await client.list("services", f"watch=true&{query}")
    assert (answer.status, answer.body["kind"]) == (status, "Status")


async def test_a_reader_that_leaves_is_forgotten():
    """No watcher is left behind to buffer events for nobody."""
    async with run(Options()) as running, Client(running.url, running.cluster.token) as client:
        async with client.http.stream("GET", client.path("pods") + "?watch=true"):
            await client.until(lambda: count(running, 1))
        await client.until(lambda: count(running, 0))


async def count(running: Emulator, wanted: int) -> bool:
    return len(running.cluster.watchers.all()) == wanted
