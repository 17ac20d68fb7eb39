from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client, Response

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
MERGE = "application/merge-patch+json"


async def patch(client: Client, body: Any, kind: str = MERGE) -> Response:
    return await client.call("PATCH", client.path("pods", "p"), body, kind)


async def test_merge_patch_changes_labels_and_annotations(client: Client, pod: Make):
    await client.create("pods", pod())
    response = await patch(client, {"metadata": {"labels": {"app": None, "new": "x"}, "annotations": {"a": "1"}}})
    assert response.body["metadata"]["labels"] == {"sandbox-id": "p", "new": "x"}
    assert response.body["metadata"]["annotations"] == {"a": "1"}
    assert response.body["metadata"]["generation"] == 1


async def test_json_patch_applies_operations(client: Client, pod: Make):
    await client.create("pods", pod())
    steps = [
        {"op": "test", "path": "/metadata/labels/app", "value": "sandbox"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "x"},
        {"op": "remove", "path": "/metadata/labels/app"},
    ]
    response = await patch(client, steps, "application/json-patch+json")
    assert response.body["metadata"]["labels"] == {"sandbox-id": "p", "a/b": "x"}


async def test_patch_without_change_keeps_resource_version(client: Client, pod: Make):
    await client.create("pods", pod())
    before = await client.ready("p")
    response = await patch(client, {"metadata": {"labels": {"app": "sandbox"}}})
    assert response.body["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


REFUSED = [
    ({"metadata": {"labels": {"app": "a b"}}}, MERGE, 422, "metadata.labels: Invalid value"),
    ({"spec": {"nodeName": "other"}}, MERGE, 422, "pod updates may not change fields other than"),
    ({"metadata": {"resourceVersion": "1"}}, MERGE, 409, "the object has been modified; please apply your changes"),
    ({"metadata": {"uid": "x"}}, MERGE, 409, "Precondition failed: UID in precondition: x"),
    ({"metadata": {"name": "q"}}, MERGE, 400, "the name of the object (q) does not match the name on the URL (p)"),
    (
        [{"op": "test", "path": "/metadata/name", "value": "q"}],
        "application/json-patch+json",
        400,
        "testing value failed",
    ),
    ({}, "application/apply-patch+yaml", 415, "the body of the request was in an unknown format"),
]


@pytest.mark.parametrize(("body", "kind", "status", "message"), REFUSED)
async def test_invalid_patch_is_refused(client: Client, pod: Make, body: Any, kind: str, status: int, message: str):
    await client.create("pods", pod())
    await client.ready("p")
    response = await patch(client, body, kind)
    assert response.status == status
    assert message in response.body["message"]


async def test_patched_image_increases_generation(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    response = await patch(client, [{"op": "replace", "path": "/spec/containers/0/image", "value": "b:2"}], JSON_PATCH)
    assert (response.status, response.body["metadata"]["generation"]) == (200, 2)


JSON_PATCH = "application/json-patch+json"


async def test_replace_with_stale_version_gets_conflict(client: Client, pod: Make):
    await client.create("pods", pod())
    current = await client.ready("p")
    current["metadata"]["labels"]["app"] = "mine"
    first = await client.call("PUT", client.path("pods", "p"), current)
    stale = await client.call("PUT", client.path("pods", "p"), current)
    assert (first.status, stale.status, stale.body["reason"]) == (200, 409, "Conflict")
    assert stale.body["details"] == {"name": "p", "kind": "pods"}


async def test_replace_keeps_status(client: Client, pod: Make):
    await client.create("pods", pod())
    current = await client.ready("p")
    response = await client.call("PUT", client.path("pods", "p"), {**current, "status": {"phase": "Failed"}})
    assert response.body["status"]["phase"] == "Running"


METHODS = [
    ("POST", "/api/v1/pods"),
    ("PUT", "/api/v1/namespaces/default/pods"),
    ("POST", "/api/v1/namespaces/default/pods/p"),
]


@pytest.mark.parametrize(("method", "path"), METHODS)
async def test_unsupported_method_gets_405(client: Client, method: str, path: str):
    response = await client.call(method, path, {})
    assert (response.status, response.body["reason"]) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1/things", "/api/v1/namespaces/default/pods/p/log", "/api/v2/pods"]
)
async def test_unknown_path_gets_404(client: Client, path: str):
    response = await client.call("GET", path)
    assert (response.status, response.body) == (404, "404 page not found\n")


OPEN = [
    ("/version", 200),
    ("/healthz", 200),
    ("/livez", 200),
    ("/readyz", 200),
    ("/api", 401),
    ("/emulator/calls", 401),
]


@pytest.mark.parametrize(("path", "status"), OPEN)
async def test_request_without_token_reaches_public_paths_only(client: Client, path: str, status: int):
    del client.http.headers["Authorization"]
    assert (await client.call("GET", path)).status == status


async def test_discovery_lists_resources(client: Client):
    names = [resource["name"] for resource in (await client.call("GET", "/api/v1")).body["resources"]]
    assert {"pods", "services", "namespaces", "events"} <= set(names)


async def test_dry_run_is_refused(client: Client, pod: Make):
    response = await client.call("POST", client.path("pods") + "?dryRun=All", pod())
    assert (response.status, (await client.get("pods", "p")).status) == (400, 404)
