"""Replays what a real Kubernetes 1.36.2 answered: the emulator must answer the same, key for key.

Each transcript is given the world it presupposes by a setup of its own name below. What must differ is listed in
`DIFFERS`, with the reason; everything else is compared as it is.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Object = dict[str, Any]
TRANSCRIPTS = Path(__file__).parent / "transcripts"

_DRAWN = "drawn at random"
_TIME = "when it was"
_ADDRESS = "another network"
_IMAGE = "the real node has the image under a local tag"
_LOOKED = "how often it happened until one looked"
DIFFERS = {
    "uid": _DRAWN,
    "resourceVersion": "how much was written before",
    "continue": "holds a resourceVersion",
    "nodePort": _DRAWN,
    "clusterIP": _DRAWN,
    "clusterIPs": _DRAWN,
    "containerID": _DRAWN,
    "imageID": _IMAGE,
    "creationTimestamp": _TIME,
    "deletionTimestamp": _TIME,
    "lastTransitionTime": _TIME,
    "startTime": _TIME,
    "startedAt": _TIME,
    "finishedAt": _TIME,
    "firstTimestamp": _TIME,
    "lastTimestamp": _TIME,
    "eventTime": _TIME,
    "podIP": _ADDRESS,
    "podIPs": _ADDRESS,
    "hostIP": _ADDRESS,
    "hostIPs": _ADDRESS,
    "count": _LOOKED,
    "reportingInstance": "names the machine",
    "host": "names the machine",
    "nodeName": "names the machine",
}
IN_TEXT = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "<uid>",
    r"(real|emulated)-node-1": "<node>",
    r"10\.244\.\d+\.\d+": "<pod address>",
    r"kube-api-access-\w{5}": "kube-api-access-<suffix>",
    r"^(\w+)\.[0-9a-f]{16}$": r"\1.<time>",  # an Event's name
    r"too old resource version: 1 \(\d+\)": "too old resource version: 1 (<version>)",
    r"RBAC: allowed by .*": "RBAC: allowed by <binding>",
}


def normal(value: Any, key: str = "") -> Any:
    if key in DIFFERS and value is not None:
        return f"<{type(value).__name__}>" if value != "" else ""
    if isinstance(value, dict):
        return {name: normal(part, name) for name, part in value.items() if not _local_tag(name, value)} | (
            {"image": "<image>"} if _local_tag("image", value) else {}
        )
    if isinstance(value, list):
        return [normal(part) for part in value]
    if isinstance(value, str):
        for pattern, replacement in IN_TEXT.items():
            value = re.sub(pattern, replacement, value)
    return value


def _local_tag(name: str, value: Object) -> bool:
    """A container's status names the image as the node has it, see `_IMAGE`."""
    return name == "image" and "imageID" in value


def transcript(name: str) -> list[Object]:
    return msgspec.json.decode((TRANSCRIPTS / f"{name}.json").read_bytes())["exchanges"]


PLAIN = [path.stem for path in sorted(TRANSCRIPTS.glob("*.json"))]


async def replay(client: Client, exchange: Object, swap: dict[str, str]) -> tuple[int, Any]:
    """Sends what was sent, with the uids of this world."""
    request = exchange["request"]
    body = msgspec.json.encode(request.get("body")).decode()
    for theirs, ours in swap.items():
        body = body.replace(theirs, ours)
    sent = msgspec.json.decode(body)
    answer = await client.call(request["method"], request["path"], sent)
    return answer.status, normal(answer.body)


def told(exchange: Object) -> tuple[int, Any]:
    return exchange["response"]["status"], normal(exchange["response"]["body"])


async def expect(client: Client, exchange: Object, swap: dict[str, str], *, eventually: bool = False) -> None:
    wanted = told(exchange)
    if eventually:

        async def look() -> bool:
            return await replay(client, exchange, swap) == wanted

        with contextlib.suppress(TimeoutError):
            await client.until(look, 3.0)
            return
    assert lines(await replay(client, exchange, swap)) == lines(wanted)


def lines(value: Any) -> list[str]:
    """For a failure that shows the line that differs."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted")).decode().splitlines()


# What each transcript presupposes. A setup may return uids to swap: theirs to ours.

Setup = Callable[[Client], Awaitable[dict[str, str] | None]]
LIFE = transcript("pod-create")[0]["request"]["body"]


async def bare(_client: Client) -> None:
    """An empty cluster."""


async def namespace(client: Client, name: str = "transcripts", labels: dict[str, str] | None = None) -> None:
    client.namespace = name
    await client.create("namespaces", {"metadata": {"name": name, "labels": labels or {}}})


async def secured(client: Client) -> None:
    await namespace(client, "transcripts-psa", {"pod-security.kubernetes.io/enforce": "baseline"})


async def few(client: Client) -> None:
    await namespace(client, "transcripts-quota")
    hard = {"pods": "1", "services.nodeports": "1"}
    await client.create("resourcequotas", {"metadata": {"name": "few"}, "spec": {"hard": hard}})


async def with_life_service(client: Client) -> None:
    await namespace(client)
    await client.create("services", transcript("service-create-nodeport")[0]["request"]["body"])


async def living(client: Client, name: str = "life") -> str:
    await namespace(client)
    labels = {"app": "deer-flow-sandbox", "sandbox-id": name}
    await client.create("pods", {**LIFE, "metadata": {"name": name, "labels": labels}})
    return str((await client.ready(name))["metadata"]["uid"])


async def life(client: Client) -> None:
    await living(client)


async def owner(client: Client) -> dict[str, str]:
    uid = await living(client, "owner")
    body = transcript("owner-reference")[0]["request"]["body"]
    return {body["metadata"]["ownerReferences"][0]["uid"]: uid}


def stuck_pod(name: str) -> Object:
    """As it was sent: the spec as it was answered, without what the server had added."""
    answered = transcript(f"pod-stuck-{name}")[0]["response"]["body"]
    spec = answered["spec"]
    [container] = spec["containers"]
    mounts = [mount for mount in container["volumeMounts"] if not mount["name"].startswith("kube-api-access")]
    volumes = [volume for volume in spec.get("volumes", []) if not volume["name"].startswith("kube-api-access")]
    sent = {"containers": [{**container, "volumeMounts": mounts}], "volumes": volumes}
    return {"metadata": {"name": name, "labels": answered["metadata"]["labels"]}, "spec": sent}


STUCK_RULES = (
    {"kind": "image-pull", "name": "^badimage$", "seconds": 20},
    {"kind": "crash-loop", "name": "^crash$", "exit_code": 3, "seconds": 0.3},
    {"kind": "out-of-memory", "name": "^oom$", "seconds": 4},
    {"kind": "no-mount", "name": "^nomount$", "seconds": 1},
)
STUCK = ("badimage", "crash", "nomount", "nopvc", "oom", "toobig")


async def stuck(client: Client) -> None:
    await namespace(client)
    await client.faults(*STUCK_RULES)
    for name in STUCK:
        assert (await client.create("pods", stuck_pod(name))).status == 201


async def stuck_backing_off(client: Client) -> None:
    """As `stuck`, but back-offs come at once and the out-of-memory Pod rests after its third end."""
    await namespace(client)
    seconds = {"badimage": 1.0, "crash": 0.3, "oom": 0.6, "nomount": 1.0}
    rules = [{**rule, "seconds": seconds[rule["name"].strip("^$")]} for rule in STUCK_RULES]
    await client.faults(*rules)
    for name in STUCK:
        assert (await client.create("pods", stuck_pod(name))).status == 201


SETUPS: dict[str, Setup] = {
    "namespace-create": bare,
    "namespace-missing": bare,
    "version": bare,
    "watch-too-old": bare,
    "pod-get-running": life,
    "pods-list": life,
    "pod-delete-wrong-uid": life,
    "pod-delete-terminating": life,
    "service-delete": with_life_service,
    "pod-security-forbidden": secured,
    "quota-exceeded": few,
    "owner-reference": owner,
    "list-continue": stuck,
} | {f"pod-stuck-{name}": stuck_backing_off for name in STUCK}

BY_THEIR_OWN = {
    "watch-pod-life",
    "watch-service-life",
    "watch-future",
    "unauthorized",
    "list-continue",
    "watch-too-old",
}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in BY_THEIR_OWN])
async def test_answers_as_the_real_server_did(start: Callable[..., Awaitable[Client]], name: str):
    slow_end = {"termination_seconds": 5.0} if name == "pod-delete-terminating" else {}
    client = await start(**slow_end)
    swap = await SETUPS.get(name, namespace)(client) or {}
    for number, exchange in enumerate(transcript(name)):
        waits = name.startswith("pod-stuck") or (name == "owner-reference" and number == 2)
        await expect(client, exchange, swap, eventually=waits)


async def test_a_wrong_token_is_unauthorized(client: Client):
    [exchange] = transcript("unauthorized")
    client.http.headers["Authorization"] = "Bearer wrong"
    await expect(client, exchange, {})


async def test_pages_of_one_snapshot(client: Client):
    """The continue token of this world takes the place of theirs."""
    await stuck(client)
    first, second, bogus = transcript("list-continue")

    async def page() -> Object | None:
        answer = await client.call("GET", first["request"]["path"])
        return answer.body if (answer.status, normal(answer.body)) == told(first) else None

    token = (await client.until(page))["metadata"]["continue"]
    path = first["request"]["path"] + f"&continue={token}"
    answer = await client.call("GET", path)
    assert lines((answer.status, normal(answer.body))) == lines(told(second))
    await expect(client, bogus, {})


async def test_watch_too_old(client: Client):
    [exchange] = transcript("watch-too-old")
    response = await client.http.get(exchange["request"]["path"])
    assert (response.status_code, normal(msgspec.json.decode(response.content))) == told(exchange)


async def test_watch_from_the_future_waits_in_silence(client: Client):
    """With one second in place of their four."""
    [exchange] = transcript("watch-future")
    response = await client.http.get(exchange["request"]["path"].replace("timeoutSeconds=4", "timeoutSeconds=1"))
    assert (response.status_code, response.text) == told(exchange)


async def watched(client: Client, name: str, path: str) -> None:
    """Their events are ours, bookmarks compared apart: when they come is a matter of the clock."""
    wanted = transcript(name)[0]["events"]
    events = []
    async with client.http.stream("GET", path) as response:
        async for line in response.aiter_lines():
            events.append(msgspec.json.decode(line))
            if events[-1]["type"] == "BOOKMARK" and any(event["type"] == "DELETED" for event in events):
                break

    def split(all_of_them: list[Object]) -> tuple[list[Any], Any]:
        return [normal(e) for e in all_of_them if e["type"] != "BOOKMARK"], normal(all_of_them[-1])

    assert lines(split(events)) == lines(split(wanted))


async def test_watch_over_a_pods_life(start: Callable[..., Awaitable[Client]]):
    client = await start(bookmark_seconds=0.4)
    await namespace(client)
    path = transcript("watch-pod-life")[0]["request"]["path"]
    version = (await client.list("pods")).body["metadata"]["resourceVersion"]
    await client.create("pods", LIFE)
    await client.ready("life")
    await client.delete("pods", "life")
    await watched(client, "watch-pod-life", path.replace("=286", f"={version}"))


async def test_watch_over_a_services_life(start: Callable[..., Awaitable[Client]]):
    """The transcript's path was cut short: its bookmarks say that it asked for them."""
    client = await start(bookmark_seconds=0.4)
    await namespace(client)
    version = (await client.list("services")).body["metadata"]["resourceVersion"]
    await client.create("services", transcript("service-create-nodeport")[0]["request"]["body"])
    await client.delete("services", "life-svc")
    path = transcript("watch-service-life")[0]["request"]["path"]
    await watched(client, "watch-service-life", f"{path}&allowWatchBookmarks=true&resourceVersion={version}")
