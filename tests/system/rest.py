"""Checks of a system at rest: exactly the expected sandboxes exist, each works, and Redis and cluster agree."""

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
from shared.store import indexes, keys
from tests.system.conftest import SECONDS, System
from worker.kubernetes.labels import SANDBOX_ID

PAUSE_SECONDS = 0.3
"""Pause between two checks, each of which costs the processes under test some CPU."""
CONCURRENCY = 10

_CONNECTION_ERRORS = (httpx.HTTPError, RedisError, OSError, client.ApiException, aiohttp.ClientError)
_decode = msgspec.json.Decoder(Sandbox).decode


async def at_rest(system: System, expected: Collection[str], seconds: float = SECONDS) -> None:
    """Wait until exactly the `expected` sandboxes exist and work. A failure shows what is wrong after `seconds`."""
    lines = ["no check was finished in time"]
    try:
        async with asyncio.timeout(seconds):
            while lines := await violations(system, expected):
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        pytest.fail(f"not at rest within {seconds:.0f} s, {len(lines)} violations:\n" + "\n".join(lines[:50]))


async def violations(system: System, expected: Collection[str]) -> list[str]:
    """Return a line for each violation. URLs are requested only if there is no other violation."""
    try:
        record_lines = [line async for line in _record_violations(system, set(expected))]
        object_lines = [line async for line in _object_violations(system, set(expected))]
        return record_lines + object_lines or await _answer_violations(system, expected)
    except _CONNECTION_ERRORS as error:
        return [f"no answer: {error!r}"]


async def _record_violations(system: System, expected: set[str]) -> AsyncIterator[str]:
    """Compare records with what is expected, with the list of the API, and with the indexes."""
    records = await _records(system)
    for sandbox_id in sorted(expected - records.keys()):
        yield f"{sandbox_id}: no record"
    for sandbox_id, record in sorted(records.items()):
        if sandbox_id not in expected:
            yield f"{sandbox_id}: unexpected record, {record.status}"
        elif not (record.status == "Running" and record.ready and record.url):
            yield f"{sandbox_id}: {record.status}, ready={record.ready}, url={record.url!r} {record.reason}"
    sandboxes = (await system.api.get("/api/sandboxes")).json().get("sandboxes", [])
    if sorted(sandbox["sandbox_id"] for sandbox in sandboxes) != sorted(expected):
        yield f"the list has {len(sandboxes)} sandboxes instead of {len(expected)}"
    for line in _index_violations(records, await _indexes(system)):
        yield line


def _index_violations(records: dict[str, Sandbox], actual: dict[str, dict[str, float]]) -> Iterable[str]:
    expected: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records.values():
        for key, score in indexes.entries(record).items():
            expected[key][record.id] = score
    for key in sorted(expected.keys() | actual.keys()):
        for sandbox_id, score in sorted(set(expected[key].items()) ^ set(actual.get(key, {}).items())):
            verb = "lacks" if sandbox_id in expected[key] else "has"
            yield f"{sandbox_id}: index {key} {verb} it with {score}"


async def _records(system: System) -> dict[str, Sandbox]:
    names = [key async for key in system.redis.scan_iter(keys.record("*"), count=1000) if key.count(b":") == 1]
    raws = await system.redis.mget(names) if names else []
    return {record.id: record for record in map(_decode, filter(None, raws))}


async def _indexes(system: System) -> dict[str, dict[str, float]]:
    """Return each existing index as a mapping of ids to scores."""
    names = [key async for key in system.redis.scan_iter("sandboxes:*", count=1000, _type="zset")]
    return {
        name.decode(): {i.decode(): score for i, score in await system.redis.zrange(name, 0, -1, withscores=True)}
        for name in names
    }


async def _object_violations(system: System, expected: set[str]) -> AsyncIterator[str]:
    """Check that each expected sandbox has one Pod and one Service, which match, and that no other object is left."""
    pods, services = _by_id(await system.pods()), _by_id(await system.services())
    for sandbox_id in sorted(expected | pods.keys() | services.keys()):
        names = [o.metadata.name for o in (*pods[sandbox_id], *services[sandbox_id])]
        if sandbox_id not in expected:
            yield f"{sandbox_id}: unexpected objects {names}"
        elif len(pods[sandbox_id]) != 1 or len(services[sandbox_id]) != 1:
            yield f"{sandbox_id}: {names} instead of one Pod and one Service"
        else:
            (pod,), (service,) = pods[sandbox_id], services[sandbox_id]
            for line in _mismatches(pod, service):
                yield f"{sandbox_id}: {line}"


def _by_id(objects: Iterable[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for each in objects:
        groups[each.metadata.labels.get(SANDBOX_ID, f"unlabelled {each.metadata.name}")].append(each)
    return groups


def _mismatches(pod: Any, service: Any) -> list[str]:
    owners = [owner.uid for owner in service.metadata.owner_references or []]
    checks = {
        "the Pod is terminating": pod.metadata.deletion_timestamp is not None,
        "the Service is terminating": service.metadata.deletion_timestamp is not None,
        "the Service selects another Pod": not service.spec.selector.items() <= pod.metadata.labels.items(),
        "the Service belongs to another Pod": owners != [pod.metadata.uid],
    }
    return [line for line, is_violated in checks.items() if is_violated]


async def _answer_violations(system: System, expected: Collection[str]) -> list[str]:
    """Check what a client gets for each sandbox: its status, and an answer of its own Pod at its URL."""
    uids = {pod.metadata.labels[SANDBOX_ID]: pod.metadata.uid for pod in await system.pods()}
    gate = asyncio.Semaphore(CONCURRENCY)

    async def check(outside: httpx.AsyncClient, sandbox_id: str) -> str:
        async with gate:
            return await _answer_violation(system, outside, sandbox_id, uids.get(sandbox_id, ""))

    async with httpx.AsyncClient(timeout=10) as outside:
        lines = await asyncio.gather(*(check(outside, sandbox_id) for sandbox_id in sorted(expected)))
    return [line for line in lines if line]


async def _answer_violation(system: System, outside: httpx.AsyncClient, sandbox_id: str, uid: str) -> str:
    """Return a line for the first violation; empty if there is none."""
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
