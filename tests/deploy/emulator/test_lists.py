from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


def names(body: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in body["items"]]


@pytest.fixture
async def five(client: Client, pod: Make) -> Client:
    for name in "abcde":
        await client.create("pods", pod(name, {"half": "first" if name < "c" else "last"}))
    return client


async def test_pages_show_one_moment(five: Client, pod: Make):
    """What is made and removed between two pages is not seen by the second."""
    first = (await five.list("pods", "limit=2")).body
    await five.create("pods", pod("cc"))
    await five.delete("pods", "d", {"gracePeriodSeconds": 0})
    second = (await five.list("pods", f"limit=2&continue={first['metadata']['continue']}")).body
    third = (await five.list("pods", f"limit=2&continue={second['metadata']['continue']}")).body
    assert [names(first), names(second), names(third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert first["metadata"]["remainingItemCount"] == 3
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_what_remains_is_not_counted_under_a_selector(five: Client):
    page = (await five.list("pods", "limit=1&labelSelector=half%3Dlast")).body
    assert names(page) == ["c"]
    assert set(page["metadata"]) == {"resourceVersion", "continue"}


async def test_a_page_too_old_comes_with_a_way_on(five: Client):
    """410, and a token that continues with what is there now."""
    first = (await five.list("pods", "limit=2")).body
    await five.delete("pods", "d", {"gracePeriodSeconds": 0})
    await five.call("POST", "/emulator/expire")
    expired = await five.list("pods", f"limit=2&continue={first['metadata']['continue']}")
    assert (expired.status, expired.body["reason"]) == (410, "Expired")
    rest = await five.list("pods", f"continue={expired.body['metadata']['continue']}")
    assert names(rest.body) == ["c", "e"]


async def test_all_namespaces_in_the_order_of_their_paths(client: Client, pod: Make):
    """As etcd has them: `a-b/…` comes before `a/…`."""
    for namespace in ("a", "a-b"):
        await client.create("namespaces", {"metadata": {"name": namespace}})
        client.namespace = namespace
        for name in ("x", "y"):
            await client.create("pods", pod(name))
    seen, token = [], ""
    while True:
        page = (await client.call("GET", f"/api/v1/pods?limit=1&continue={token}")).body
        seen += [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in page["items"]]
        if not (token := page["metadata"].get("continue", "")):
            break
    assert seen == [("a-b", "x"), ("a-b", "y"), ("a", "x"), ("a", "y")]


async def test_a_namespace_that_is_not_there_is_an_empty_list(client: Client):
    client.namespace = "nowhere"
    assert (await client.list("pods")).body["items"] == []


async def test_the_state_at_one_version(five: Client):
    version = (await five.list("pods")).body["metadata"]["resourceVersion"]
    await five.delete("pods", "a", {"gracePeriodSeconds": 0})
    exact = await five.list("pods", f"resourceVersion={version}&resourceVersionMatch=Exact")
    newer = await five.list("pods", f"resourceVersion={version}&resourceVersionMatch=NotOlderThan")
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
async def test_a_list_that_is_refused(client: Client, query: str, status: int, reason: str):
    answer = await client.list("pods", query)
    assert (answer.status, answer.body["reason"]) == (status, reason)


async def test_a_version_that_never_comes(client: Client, monkeypatch: pytest.MonkeyPatch):
    """The real server waits three seconds for it; here, none."""
    monkeypatch.setattr("deploy.local.emulator.http.lists._FRESHNESS_SECONDS", 0.0)
    answer = await client.list("pods", "resourceVersion=99999999")
    assert (answer.status, answer.body["reason"]) == (504, "Timeout")
    assert answer.body["message"].startswith("Timeout: Too large resource version: 99999999, current: ")
    assert answer.headers["Retry-After"] == "1"
