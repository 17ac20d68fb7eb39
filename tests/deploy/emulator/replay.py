"""Comparison of the emulator's responses with the recorded ones of a real API server."""

import contextlib
import re
from typing import Any

import msgspec

from deploy.local.emulator.client import Client

Object = dict[str, Any]

_RANDOM = "random"
_TIME = "a time"
_ADDRESS = "another network"
_IMAGE = "the real node has the image under a local tag"
DIFFERENT_FIELDS = {
    "uid": _RANDOM,
    "resourceVersion": "depends on earlier writes",
    "continue": "holds a resourceVersion",
    "nodePort": _RANDOM,
    "clusterIP": _RANDOM,
    "clusterIPs": _RANDOM,
    "containerID": _RANDOM,
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
    "count": "depends on the time of the request",
    "reportingInstance": "names the machine",
    "host": "names the machine",
    "nodeName": "names the machine",
}
"""Fields whose values differ, with the reason. All other fields are compared."""

DIFFERENT_TEXTS = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "<uid>",
    r"(real|emulated)-node-1": "<node>",
    r"10\.244\.\d+\.\d+": "<pod address>",
    r"kube-api-access-\w{5}": "kube-api-access-<suffix>",
    r"^(\w+)\.[0-9a-f]{16}$": r"\1.<time>",  # name of an Event
    r"too old resource version: 1 \(\d+\)": "too old resource version: 1 (<version>)",
    r"RBAC: allowed by .*": "RBAC: allowed by <binding>",
}
"""Parts of texts that differ, and their replacements."""


def normalize(value: Any, key: str = "") -> Any:
    """Replace all values that differ between two clusters."""
    if key in DIFFERENT_FIELDS and value is not None:
        return f"<{type(value).__name__}>" if value != "" else ""
    if isinstance(value, dict):
        return {
            name: "<image>" if _is_local_tag(name, value) else normalize(part, name) for name, part in value.items()
        }
    if isinstance(value, list):
        return [normalize(part) for part in value]
    if isinstance(value, str):
        for pattern, replacement in DIFFERENT_TEXTS.items():
            value = re.sub(pattern, replacement, value)
    return value


def _is_local_tag(name: str, value: Object) -> bool:
    """Return True for the image in the status of a container, see `_IMAGE`."""
    return name == "image" and "imageID" in value


async def replay(client: Client, exchange: Object, uids: dict[str, str]) -> tuple[int, Any]:
    """Send the recorded request, with recorded uids replaced. Return the normalized response."""
    request = exchange["request"]
    body = msgspec.json.encode(request.get("body")).decode()
    for recorded, current in uids.items():
        body = body.replace(recorded, current)
    content_type = request.get("content-type", "application/json")
    response = await client.call(request["method"], request["path"], msgspec.json.decode(body), content_type)
    return response.status, normalize(response.body)


def expected(exchange: Object) -> tuple[int, Any]:
    return exchange["response"]["status"], normalize(exchange["response"]["body"])


async def check(client: Client, exchange: Object, uids: dict[str, str], *, eventually: bool = False) -> None:
    """Assert that the emulator returns the recorded response. `eventually`: within three seconds."""
    if eventually:

        async def matches() -> bool:
            return await replay(client, exchange, uids) == expected(exchange)

        with contextlib.suppress(TimeoutError):
            await client.until(matches, 3.0)
            return
    assert lines(await replay(client, exchange, uids)) == lines(expected(exchange))


def lines(value: Any) -> list[str]:
    """Return the value as lines of JSON. A failed comparison shows the line that differs."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted")).decode().splitlines()
