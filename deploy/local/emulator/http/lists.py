"""Lists, and their JSON."""

import asyncio

import msgspec

from deploy.local.emulator.base.statuses import Object, bad_request, version_too_large
from deploy.local.emulator.http.request_info import Query, RequestInfo
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import paging
from deploy.local.emulator.storage.kinds import Kind
from deploy.local.emulator.storage.objects import StoredObject

_POLL_SECONDS = 0.05


async def list_objects(cluster: Cluster, info: RequestInfo, query: Query) -> bytes:
    query.check_version_parameters()
    selection, limit = query.selection(info), query.number("limit") or 0
    version = query.number("resourceVersion") or 0
    if token := query.parameters.get("continue"):
        if version:
            raise bad_request("specifying resource version is not allowed when using continue")
        return encode_page(info.kind, paging.continue_page(cluster.store, selection, limit, token))
    await _wait_for_version(cluster, version)
    match = query.parameters.get("resourceVersionMatch", "")
    exact_version = version if version and (match == "Exact" or (limit and not match)) else None
    return encode_page(info.kind, paging.list_page(cluster.store, selection, limit, exact_version))


async def _wait_for_version(cluster: Cluster, version: int) -> None:
    waited_seconds = 0.0
    while version > cluster.store.version:
        if waited_seconds >= cluster.options.freshness_seconds:
            raise version_too_large(version, cluster.store.version)
        await asyncio.sleep(_POLL_SECONDS)
        waited_seconds += _POLL_SECONDS


def encode_page(kind: Kind, page: paging.Page) -> bytes:
    metadata: Object = {"resourceVersion": str(page.version)}
    if page.token:
        metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    return encode_list(kind, metadata, page.items)


def encode_list(kind: Kind, metadata: Object, items: list[StoredObject]) -> bytes:
    head = msgspec.json.encode({"kind": f"{kind.name}List", "apiVersion": "v1", "metadata": metadata})
    return head[:-1] + b',"items":[' + b",".join([stored.item() for stored in items]) + b"]}"
