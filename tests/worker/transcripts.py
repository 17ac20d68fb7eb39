"""The recordings in `tests/transcripts`, as the worker decodes them."""

from typing import Any, NamedTuple

import msgspec

from tests.support.transcripts import exchanges
from worker.kubernetes import objects
from worker.kubernetes.errors import KubernetesError


class Event(NamedTuple):
    type: str
    pod: objects.Pod


def pod_of(document: dict[str, Any]) -> objects.Pod:
    return msgspec.json.decode(msgspec.json.encode(document), type=objects.Pod)


def pod_life() -> list[Event]:
    """Return the watch events of one Pod, from its creation to its removal, without bookmarks."""
    events = exchanges("watch-pod-life")[0]["events"]
    return [Event(event["type"], pod_of(event["object"])) for event in events if event["type"] != "BOOKMARK"]


def stuck_pod(cause: str) -> objects.Pod:
    return pod_of(exchanges(f"pod-stuck-{cause}")[0]["response"]["body"])


def refusal(name: str, number: int = 0) -> KubernetesError:
    """Return the error of the numbered exchange."""
    response = exchanges(name)[number]["response"]
    body = response["body"]
    return KubernetesError(response["status"], body["reason"], body["message"])
