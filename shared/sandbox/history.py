"""What happened to a sandbox, for people: what we did and saw, and what Kubernetes said of its Pod. Pure.

`shared.store.store` keeps the last of it under `sandbox:{id}:history`, as long as the record.
"""

from collections.abc import Iterator

import msgspec

from shared.sandbox.record import Sandbox, Status

OURS = "provisioner"
KEPT = 32
"""Entries; older ones go."""
_RETRIES_TOLD = 10
"""After so many, one more says nothing new, and would push out what does."""
_TEXT = 300
"""Characters of a message, which is Kubernetes' and may be long."""


class HistoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """`at` in seconds since the epoch, by our clock; `source` is who says so: we, or a component of Kubernetes.
    `type` is `Normal` or `Warning`, as Kubernetes has it."""

    at: float
    source: str
    type: str
    reason: str
    message: str

    @property
    def dedup_key(self) -> str:
        """What is the same whenever it happens again."""
        return _encode((self.source, self.type, self.reason, self.message)).decode()[1:]


_encode = msgspec.json.Encoder().encode
read_entry = msgspec.json.Decoder(HistoryEntry).decode


def entry(at: float, source: str, kind: str, reason: str, message: str) -> HistoryEntry:
    return HistoryEntry(
        round(at, 3), source, kind, reason, message if len(message) <= _TEXT else message[: _TEXT - 1] + "…"
    )


def encode_entry(entry: HistoryEntry) -> bytes:
    return _encode(entry)


def entries_for(before: Sandbox | None, after: Sandbox | None, now: float) -> list[HistoryEntry]:
    """What a change of the record tells; nothing when it says nothing new, or when the record goes."""
    if after is None:
        return []
    if before is None or before.token != after.token:
        return [entry(now, OURS, "Normal", *_begun(after))]
    return [entry(now, OURS, kind, reason, message) for kind, reason, message in _differences(before, after)]


def _begun(record: Sandbox) -> tuple[str, str]:
    if record.pod_uid:
        return "Adopted", f"Pod {record.pod_name} was there and had no record: it was made anew from the Pod."
    return "Accepted", f"Life {record.generation} was asked for."


def _differences(before: Sandbox, after: Sandbox) -> Iterator[tuple[str, str, str]]:
    if before.is_provisioned and not after.is_provisioned:
        yield "Warning", "ServiceLost", "The Service is gone: another one is being made, perhaps with another URL."
    if after.attempt != before.attempt and 2 < after.attempt <= _RETRIES_TOLD and before.status is after.status:  # noqa: PLR2004 - again
        yield "Warning", "Retried", f"No progress: job {after.attempt} was put into the queue."
    if after.is_provisioned and not before.is_provisioned:
        yield "Normal", "Provisioned", f"Pod {after.pod_name} and its Service are made: {after.url}"
    if after.status is not before.status:
        yield _status(after)
    elif (after.reason, after.message) != (before.reason, before.message) and after.reason:
        yield "Warning", after.reason, after.message
    if after.ready and not before.ready:
        yield "Normal", "Ready", "The sandbox answers."
    if before.ready and not after.ready and after.is_active:
        yield "Warning", "NotReady", "The sandbox does not answer any more."


def _status(record: Sandbox) -> tuple[str, str, str]:
    if record.status is Status.FAILED:
        return "Warning", record.reason, record.message
    if record.status is Status.TERMINATING:
        why = f": its {record.expired_by} time is over" if record.expired_by else ""
        return "Normal", "Terminating", f"Life {record.generation} is being ended{why}."
    return "Normal", record.status, record.message or f"The Pod is {record.status}."
