"""What a real API server answered, as `transcripts/*.json` recorded it."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from worker.kubernetes import objects
from worker.kubernetes.errors import KubernetesError

DIRECTORY = Path(__file__).parent / "transcripts"


class Event(NamedTuple):
    type: str
    pod: objects.Pod


def exchanges(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode((DIRECTORY / f"{name}.json").read_bytes())["exchanges"]
    return found


def pod_of(document: dict[str, Any]) -> objects.Pod:
    """As the worker decodes it."""
    return msgspec.json.decode(msgspec.json.encode(document), type=objects.Pod)


def pod_life() -> list[Event]:
    """A Pod's life from create to gone, as its watch told it."""
    events = exchanges("watch-pod-life")[0]["events"]
    return [Event(event["type"], pod_of(event["object"])) for event in events if event["type"] != "BOOKMARK"]


def stuck_pod(how: str) -> objects.Pod:
    return pod_of(exchanges(f"pod-stuck-{how}")[0]["response"]["body"])


def refusal(name: str, number: int = 0) -> KubernetesError:
    """The refusal that an exchange ended with."""
    response = exchanges(name)[number]["response"]
    body = response["body"]
    return KubernetesError(response["status"], body["reason"], body["message"])
