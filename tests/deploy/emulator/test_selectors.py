from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.base.statuses import ApiError
from deploy.local.emulator.client import Client
from deploy.local.emulator.storage.selectors import parse_labels

LABELS = {"app": "sandbox", "tier": "a", "empty": ""}
MATCHES = [
    ("", True),
    ("app=sandbox", True),
    ("app==sandbox", True),
    ("app=other", False),
    ("app!=other", True),
    ("absent!=other", True),
    ("app in (sandbox,other)", True),
    ("app in (other)", False),
    ("app notin (other)", True),
    ("absent notin (other)", True),
    ("app notin (sandbox)", False),
    ("app", True),
    ("absent", False),
    ("!absent", True),
    ("!app", False),
    ("empty=", True),
    ("app=sandbox,tier in (a, b),!absent", True),
    ("app=sandbox,tier=b", False),
]


@pytest.mark.parametrize(("text", "is_match"), MATCHES)
def test_label_selector_matches_labels(text: str, is_match: bool):
    assert all(requirement.matches(LABELS) for requirement in parse_labels(text)) is is_match


@pytest.mark.parametrize("text", ["a b", "a in b", "a=b c!", "=b", "a/b/c=d", "app in (a,b", "-a"])
def test_invalid_label_selector_is_refused(text: str):
    with pytest.raises(ApiError) as error:
        parse_labels(text)
    assert (error.value.code, error.value.reason) == (400, "BadRequest")


FIELDS = [
    ("pods", "metadata.name=one", ["one"]),
    ("pods", "metadata.name!=one", ["two"]),
    ("pods", "status.phase=Running", ["one", "two"]),
    ("pods", "status.phase!=Running", []),
    ("pods", "spec.nodeName=emulated-node-1,metadata.name=two", ["two"]),
    ("services", "spec.type=NodePort", ["one"]),
    ("events", "involvedObject.name=one,reason=Scheduled", None),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("resource", "selector", "names"), FIELDS)
async def test_field_selector_selects_objects(
    client: Client,
    pod: Callable[..., Any],
    service: Callable[..., Any],
    resource: str,
    selector: str,
    names: list[str] | None,
):
    for name in ("one", "two"):
        await client.create("pods", pod(name))
        await client.ready(name)
    await client.create("services", service("one"))
    items = (await client.list(resource, f"fieldSelector={selector}")).body["items"]
    if names is None:
        assert [item["reason"] for item in items] == ["Scheduled"]
    else:
        assert [item["metadata"]["name"] for item in items] == names


@pytest.mark.anyio
async def test_unsupported_field_selector_is_refused(client: Client):
    response = await client.list("pods", "fieldSelector=spec.image=x")
    assert (response.status, response.body["message"]) == (400, "field label not supported: spec.image")
