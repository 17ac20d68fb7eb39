from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


def names(body: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in body["items"]]


@pytest.fixture
async def client_with_five_pods(client: Client, pod: Make) -> Client:
    for name in "abcde":
        await client.create("pods", pod(name, {"half": "first" if name < "c" else "last"}))
    return client


async def test_pages_show_one_snapshot(client_with_five_pods: Client, pod: Make):
    """The second page shows no change made after the first page."""
    first = (await client_with_five_pods.list("pods", "limit=2")).body
    await client_with_five_pods.create("pods", pod("cc"))
    await client_with_five_pods.delete("pods", "d", {"gracePeriodSeconds": 0})
    second = (await client_with_five_pods.list("pods", f"limit=2&continue={first['metadata']['continue']}")).body
    third = (await client_with_five_pods.list("pods", f"limit=2&continue={second['metadata']['continue']}")).body
    assert [names(first), names(second), names(third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert first["metadata"]["remainingItemCount"] == 3
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_page_with_selector_has_no_remaining_count(client_with_five_pods: Client):
    page = (await client_with_five_pods.list("pods", "limit=1&labelSelector=half%3Dlast")).body
    assert names(page) == ["c"]
    assert set(page["metadata"]) == {"resourceVersion", "continue"}


async def test_expired_continue_token_gets_token_without_snapshot(client_with_five_pods: Client):
    """The 410 has a token that continues with the current objects."""
    first = (await client_with_five_pods.list("pods", "limit=2")).body
    await client_with_five_pods.delete("pods", "d", {"gracePeriodSeconds": 0})
    await client_with_five_pods.call("POST", "/emulator/expire")
    expired = await client_with_five_pods.list("pods", f"limit=2&continue={first['metadata']['continue']}")
    assert (expired.status, expired.body["reason"]) == (410, "Expired")
    remainder = await client_with_five_pods.list("pods", f"continue={expired.body['metadata']['continue']}")
    assert names(remainder.body) == ["c", "e"]


async def test_list_of_all_namespaces_has_order_of_etcd(client: Client, pod: Make):
    """Etcd orders `a-b/…` before `a/…`."""
    for namespace in ("a", "a-b"):
        await client.create("namespaces", {"metadata": {"name": namespace}})
        client.namespace = namespace
        for name in ("x", "y"):
            await client.create("pods", pod(name))
    keys, token = [], ""
    while True:
        page = (await client.call("GET", f"/api/v1/pods?limit=1&continue={token}")).body
        keys += [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in page["items"]]
        if not (token := page["metadata"].get("continue", "")):
            break
    assert keys == [("a-b", "x"), ("a-b", "y"), ("a", "x"), ("a", "y")]


async def test_list_in_missing_namespace_is_empty(client: Client):
    client.namespace = "nowhere"
    assert (await client.list("pods")).body["items"] == []


async def test_list_at_exact_version_shows_that_state(client_with_five_pods: Client):
    version = (await client_with_five_pods.list("pods")).body["metadata"]["resourceVersion"]
    await client_with_five_pods.delete("pods", "a", {"gracePeriodSeconds": 0})
    exact = await client_with_five_pods.list("pods", f"resourceVersion={version}&resourceVersionMatch=Exact")
    newer = await client_with_five_pods.list("pods", f"resourceVersion={version}&resourceVersionMatch=NotOlderThan")
    assert names(exact.body) == list("abcde")
    assert names(newer.body) == list("bcde")


REFUSED = [
    ("resourceVersion=abc", 400, "BadRequest"),
    ("resourceVersionMatch=Exact", 422, "Invalid"),
    ("resourceVersion=0&resourceVersionMatch=Exact", 422, "Invalid"),
    ("resourceVersion=1&resourceVersionMatch=Exact", 410, "Expired"),
    ("resourceVersion=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NTMyLCJzdGFydCI6Ii9hIn0", 400, "BadRequest"),
    ("continue=eyJ2IjoidjAifQ", 400, "BadRequest"),
    ("limit=-1", 400, "BadRequest"),
]


@pytest.mark.parametrize(("query", "status", "reason"), REFUSED)
async def test_invalid_list_parameters_are_refused(client: Client, query: str, status: int, reason: str):
    response = await client.list("pods", query)
    assert (response.status, response.body["reason"]) == (status, reason)


async def test_list_of_future_version_times_out(start: Start):
    client = await start(freshness_seconds=0.0)
    response = await client.list("pods", "resourceVersion=99999999")
    assert (response.status, response.body["reason"]) == (504, "Timeout")
    assert response.body["message"].startswith("Timeout: Too large resource version: 99999999, current: ")
    assert response.headers["Retry-After"] == "1"
