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


async def first_events(client: Client, resource: str, query: str, count: int) -> list[dict[str, Any]]:
    """Return the first events of a watch."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        async for event in client.watch(resource, query):
            events.append(event)
            if len(events) == count:
                break
    return events


def summary(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def version(client: Client, resource: str = "services") -> str:
    return str((await client.list(resource)).body["metadata"]["resourceVersion"])


@pytest.mark.parametrize("query", ["", "resourceVersion=0"])
async def test_watch_without_version_starts_with_current_objects(client: Client, service: Make, query: str):
    await client.create("services", service("a"))
    await client.create("services", service("b"))
    assert summary(await first_events(client, "services", query, 2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_watch_from_version_shows_later_changes(client: Client, service: Make):
    await client.create("services", service("a"))
    since = await version(client)
    await client.create("services", service("b"))
    await client.delete("services", "a")
    events = await first_events(client, "services", f"resourceVersion={since}", 2)
    assert summary(events) == [("ADDED", "b"), ("DELETED", "a")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert int(since) < versions[0] < versions[1]


async def test_open_watch_shows_changes(client: Client, service: Make):
    task = asyncio.create_task(first_events(client, "services", "", 2))
    await client.until(lambda: calls(client, "watch services"))
    await client.create("services", service("a"))
    await client.delete("services", "a")
    assert summary(await task) == [("ADDED", "a"), ("DELETED", "a")]


async def calls(client: Client, request: str) -> int:
    return int((await client.call("GET", "/emulator/calls")).body.get(request, 0))


async def test_watch_of_all_namespaces_shows_each_namespace(client: Client, service: Make):
    since = await version(client)
    await client.create("namespaces", {"metadata": {"name": "other"}})
    client.namespace = "other"
    await client.create("services", service("a"))
    path = f"/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={since}"
    async with client.http.stream("GET", path) as response:
        line = await anext(response.aiter_lines())
    assert '"namespace":"other"' in line


async def test_object_that_stops_matching_gets_deleted_event(client: Client, service: Make):
    """DELETED shows the last state that matched. An object that matches again gets ADDED."""
    since = await version(client)
    await client.create("services", service("a"))
    for value in ("yes", "no", "yes"):
        patch = {"metadata": {"labels": {"wanted": value}}}
        await client.call("PATCH", client.path("services", "a"), patch, "application/merge-patch+json")
    events = await first_events(client, "services", f"resourceVersion={since}&labelSelector=wanted%3Dyes", 3)
    assert summary(events) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
    assert events[1]["object"]["metadata"]["labels"]["wanted"] == "yes"
    assert events[1]["object"]["metadata"]["resourceVersion"] > events[0]["object"]["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    "selector", ["fieldSelector=metadata.name%3Db", "labelSelector=n+in+(b)", "labelSelector=n%3Db"]
)
async def test_watch_with_selector_shows_matching_objects(client: Client, pod: Make, selector: str):
    since = await version(client)
    for name in "abc":
        await client.create("pods", pod(name, {"n": name}))
    assert summary(await first_events(client, "pods", f"resourceVersion={since}&{selector}", 1)) == [("ADDED", "b")]


async def test_bookmark_has_version_to_resume_from(start: Start, service: Make):
    client = await start(bookmark_seconds=0.05)
    await client.create("services", service("a"))
    since = await version(client)
    [bookmark] = await first_events(client, "services", f"resourceVersion={since}&allowWatchBookmarks=true", 1)
    assert bookmark["type"] == "BOOKMARK"
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(since)
    resume_version = bookmark["object"]["metadata"]["resourceVersion"]
    await client.delete("services", "a")
    assert summary(await first_events(client, "services", f"resourceVersion={resume_version}", 1)) == [("DELETED", "a")]


async def test_watch_ends_with_bookmark(client: Client):
    query = f"timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={await version(client)}"
    assert [event["type"] async for event in client.watch("services", query)] == ["BOOKMARK"]


async def test_initial_events_end_with_annotated_bookmark(client: Client, service: Make):
    await client.create("services", service("a"))
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    events = await first_events(client, "services", query, 2)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_watch_from_version_before_history_gets_expired_event(start: Start, service: Make):
    """The ERROR event comes in a response with status 200."""
    client = await start(history=3)
    since = await version(client)
    for name in "abcd":
        await client.create("services", service(name))
    [event] = [event async for event in client.watch("services", f"resourceVersion={since}")]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_expire_makes_all_versions_too_old(client: Client):
    since = await version(client)
    await client.call("POST", "/emulator/expire")
    [event] = [event async for event in client.watch("services", f"resourceVersion={since}")]
    assert event["object"]["message"].startswith(f"too old resource version: {since} (")
    fresh = f"resourceVersion={await version(client)}&timeoutSeconds=1"
    assert [event async for event in client.watch("services", fresh)] == []


REFUSED = [
    ("labelSelector=a+b", 400),
    ("resourceVersion=abc", 400),
    ("sendInitialEvents=true", 422),
    ("fieldSelector=spec.ports%3D1", 400),
]


@pytest.mark.parametrize(("query", "status"), REFUSED)
async def test_invalid_watch_parameters_are_refused(client: Client, query: str, status: int):
    response = await client.list("services", f"watch=true&{query}")
    assert (response.status, response.body["kind"]) == (status, "Status")


async def test_closed_connection_removes_watcher():
    """A watcher that stays would buffer events forever."""
    async with run(Options()) as emulator, Client(emulator.url, emulator.cluster.token) as client:
        async with client.http.stream("GET", client.path("pods") + "?watch=true"):
            await client.until(lambda: count(emulator, 1))
        await client.until(lambda: count(emulator, 0))


async def count(emulator: Emulator, expected: int) -> bool:
    return len(emulator.cluster.watchers.all()) == expected
