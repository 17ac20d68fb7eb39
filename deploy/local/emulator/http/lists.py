"""Lists, as answers."""

import asyncio

import msgspec

from deploy.local.emulator.base.statuses import Object, bad_request, version_too_large
from deploy.local.emulator.http.request_info import Query, Target
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import paging
from deploy.local.emulator.storage.kinds import Kind
from deploy.local.emulator.storage.objects import Stored

_FRESHNESS_SECONDS = 3.0  # how long the real server waits for a version it has not seen yet
_LOOK_SECONDS = 0.05


async def list_objects(cluster: Cluster, target: Target, query: Query) -> bytes:
    query.check_versions()
    selection, limit = query.selection(target), query.number("limit") or 0
    version = query.number("resourceVersion") or 0
    if token := query.given.get("continue"):
        if version:
            raise bad_request("specifying resource version is not allowed when using continue")
        return encode(target.kind, paging.continue_page(cluster.store, selection, limit, token))
    await _wait_for(cluster, version)
    match = query.given.get("resourceVersionMatch", "")
    exactly = version if version and (match == "Exact" or (limit and not match)) else None
    return encode(target.kind, paging.list_page(cluster.store, selection, limit, exactly))


async def _wait_for(cluster: Cluster, version: int) -> None:
    waited = 0.0
    while version > cluster.store.version:
        if waited >= _FRESHNESS_SECONDS:
            raise version_too_large(version, cluster.store.version)
        await asyncio.sleep(_LOOK_SECONDS)
        waited += _LOOK_SECONDS


def encode(kind: Kind, page: paging.Page) -> bytes:
    metadata: Object = {"resourceVersion": str(page.version)}
    if page.token:
        metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    return list_body(kind, metadata, page.items)


def list_body(kind: Kind, metadata: Object, items: list[Stored]) -> bytes:
    head = msgspec.json.encode({"kind": f"{kind.name}List", "apiVersion": "v1", "metadata": metadata})
    return head[:-1] + b',"items":[' + b",".join([stored.item() for stored in items]) + b"]}"
