"""What must be true of a system at rest: exactly what is wanted is there, it works, and all that is kept agrees."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from kubernetes_asyncio import client
from redis.exceptions import RedisError

from shared.sandbox.record import Sandbox
from shared.store import indexes
from tests.system.conftest import SECONDS, System
from worker.kubernetes.labels import SANDBOX_ID

PAUSE_SECONDS = 0.3
"""Between two looks, each of which costs the processes under test something too."""
CONCURRENCY = 10

_AWAY = (httpx.HTTPError, RedisError, OSError, client.ApiException, aiohttp.ClientError)
_decode = msgspec.json.Decoder(Sandbox).decode


async def at_rest(system: System, wanted: Collection[str], seconds: float = SECONDS) -> None:
    """Waits until exactly the `wanted` sandboxes are there, and well; says what is not so after `seconds`."""
    found = ["nothing was looked at in time"]
    try:
        async with asyncio.timeout(seconds):
            while found := await violations(system, wanted):
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        pytest.fail(f"not at rest within {seconds:.0f} s, {len(found)} violations:\n" + "\n".join(found[:50]))


async def violations(system: System, wanted: Collection[str]) -> list[str]:
    """Each a line for a person. Whether the URLs answer is asked only when all else is well."""
    try:
        of_records = [line async for line in _of_records(system, set(wanted))]
        of_objects = [line async for line in _of_objects(system, set(wanted))]
        return of_records + of_objects or await _of_answers(system, wanted)
    except _AWAY as error:
        return [f"something does not answer: {error!r}"]


async def _of_records(system: System, wanted: set[str]) -> AsyncIterator[str]:
    """Records and indexes against each other and against what is wanted; and the list, which is made of them."""
    records = await _records(system)
    for sandbox_id in sorted(wanted - records.keys()):
        yield f"{sandbox_id}: no record"
    for sandbox_id, record in sorted(records.items()):
        if sandbox_id not in wanted:
            yield f"{sandbox_id}: a record, {record.status}, that nobody wants"
        elif not (record.status == "Running" and record.ready and record.url):
            yield f"{sandbox_id}: {record.status}, ready={record.ready}, url={record.url!r} {record.reason}"
    listed = [entry["sandbox_id"] for entry in (await system.api.get("/api/sandboxes")).json().get("sandboxes", [])]
    if sorted(listed) != sorted(wanted):
        yield f"the list has {len(listed)} sandboxes instead of {len(wanted)}"
    expected: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records.values():
        for key, score in indexes.entries(record).items():
            expected[key][record.id] = score
    kept = await _indexes(system)
    for key in sorted(expected.keys() | kept.keys()):
        for sandbox_id, score in sorted(set(expected[key].items()) ^ set(kept.get(key, {}).items())):
            side = "lacks" if sandbox_id in expected[key] else "has"
            yield f"{sandbox_id}: index {key} {side} it with {score}"


async def _records(system: System) -> dict[str, Sandbox]:
    names = [key async for key in system.redis.scan_iter("sandbox:*", count=1000) if key.count(b":") == 1]
    raws = await system.redis.mget(names) if names else []
    return {record.id: record for record in map(_decode, filter(None, raws))}


async def _indexes(system: System) -> dict[str, dict[str, float]]:
    """Each index there is, with the score of each id in it."""
    names = [key async for key in system.redis.scan_iter("sandboxes:*", count=1000, _type="zset")]
    return {
        name.decode(): {i.decode(): score for i, score in await system.redis.zrange(name, 0, -1, withscores=True)}
        for name in names
    }


async def _of_objects(system: System, wanted: set[str]) -> AsyncIterator[str]:
    """One Pod and one Service for each that is wanted, which belong together, and nothing else of ours."""
    pods, services = _by_id(await system.pods()), _by_id(await system.services())
    for sandbox_id in sorted(wanted | pods.keys() | services.keys()):
        names = [o.metadata.name for o in (*pods[sandbox_id], *services[sandbox_id])]
        if sandbox_id not in wanted:
            yield f"{sandbox_id}: {names}, that nobody wants"
        elif len(pods[sandbox_id]) != 1 or len(services[sandbox_id]) != 1:
            yield f"{sandbox_id}: {names} instead of one Pod and one Service"
        else:
            (pod,), (service,) = pods[sandbox_id], services[sandbox_id]
            for line in _mismatches(pod, service):
                yield f"{sandbox_id}: {line}"


def _by_id(objects: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for each in objects:
        found[each.metadata.labels.get(SANDBOX_ID, f"unlabelled {each.metadata.name}")].append(each)
    return found


def _mismatches(pod: Any, service: Any) -> list[str]:
    owners = [owner.uid for owner in service.metadata.owner_references or []]
    said = {
        "the Pod is dying": pod.metadata.deletion_timestamp is not None,
        "the Service is dying": service.metadata.deletion_timestamp is not None,
        "the Service selects another Pod": not service.spec.selector.items() <= pod.metadata.labels.items(),
        "the Service belongs to another Pod": owners != [pod.metadata.uid],
    }
    return [line for line, is_so in said.items() if is_so]


async def _of_answers(system: System, wanted: Collection[str]) -> list[str]:
    """What a client sees of each: its status, and its own Pod at its URL."""
    uids = {p.metadata.labels[SANDBOX_ID]: p.metadata.uid for p in await system.pods()}
    gate = asyncio.Semaphore(CONCURRENCY)

    async def seen(outside: httpx.AsyncClient, sandbox_id: str) -> str:
        async with gate:
            return await _of_answer(system, outside, sandbox_id, uids.get(sandbox_id, ""))

    async with httpx.AsyncClient(timeout=10) as outside:
        lines = await asyncio.gather(*(seen(outside, sandbox_id) for sandbox_id in sorted(wanted)))
    return [line for line in lines if line]


async def _of_answer(system: System, outside: httpx.AsyncClient, sandbox_id: str, uid: str) -> str:
    """Empty: all is well."""
    response = await system.api.get(f"/api/sandboxes/{sandbox_id}")
    body = response.json()
    if response.status_code != 200 or body["status"] != "Running" or not body["ready"] or not body["sandbox_url"]:
        return f"{sandbox_id}: {response.status_code} {response.text}"
    try:
        page = await outside.get(f"{body['sandbox_url']}/v1/sandbox")
    except httpx.HTTPError as error:
        return f"{sandbox_id}: {body['sandbox_url']} does not answer: {error!r}"
    if page.status_code != 200:
        return f"{sandbox_id}: {body['sandbox_url']} answers {page.status_code}"
    if "json" in page.headers.get("Content-Type", "") and page.json().get("uid", uid) != uid:
        return f"{sandbox_id}: {body['sandbox_url']} is another Pod's"
    return ""
