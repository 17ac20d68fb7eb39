"""History of a sandbox for people: transitions of its record, and Kubernetes' Events of its Pod. Pure.

The store keeps the last entries under `sandbox:{id}:history`, as long as the record exists.
"""

from collections.abc import Iterator

import msgspec

from shared.sandbox.record import ExpiryCause, Sandbox, Status

PROVISIONER = "provisioner"
"""Source of the entries that this service writes."""
MAX_ENTRIES = 32
"""Entries of one sandbox. Older entries are dropped."""
_MAX_RETRIES = 10
"""Last attempt that gets an entry. More entries would say nothing new and push out other entries."""
_MAX_TEXT = 300
"""Characters of a message. Kubernetes' messages can be long."""


_EXPIRED: dict[str, str] = {ExpiryCause.IDLE: "Idle timeout reached", ExpiryCause.LIFETIME: "Lifetime ended"}


class HistoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """Entry of a history.

    `at` is in seconds since the epoch, by Redis' clock. `source` is this service or a component of Kubernetes. `type`
    is `Normal` or `Warning`, as in a Kubernetes Event.
    """

    at: float
    source: str
    type: str
    reason: str
    message: str

    @property
    def dedup_key(self) -> str:
        """The part of the encoded entry that stays the same when the same thing happens again."""
        return _encode((self.source, self.type, self.reason, self.message)).decode()[1:]


_encode = msgspec.json.Encoder().encode
read_entry = msgspec.json.Decoder(HistoryEntry).decode


def entry(at: float, source: str, kind: str, reason: str, message: str) -> HistoryEntry:
    text = message if len(message) <= _MAX_TEXT else message[: _MAX_TEXT - 1] + "…"
    return HistoryEntry(round(at, 3), source, kind, reason, text)


def encode_entry(entry: HistoryEntry) -> bytes:
    return _encode(entry)


def entries_for(before: Sandbox | None, after: Sandbox | None, now: float) -> list[HistoryEntry]:
    """Return the entries for a transition. A deleted record has none."""
    if after is None:
        return []
    if before is None or before.token != after.token:
        return [entry(now, PROVISIONER, "Normal", *_start(after))]
    return [entry(now, PROVISIONER, kind, reason, message) for kind, reason, message in _differences(before, after)]


def _start(record: Sandbox) -> tuple[str, str]:
    if record.pod_uid:
        return "Adopted", f"Pod {record.pod_name} had no record; the record was rebuilt from the Pod."
    return "Accepted", f"Accepted as generation {record.generation}."


def _differences(before: Sandbox, after: Sandbox) -> Iterator[tuple[str, str, str]]:
    if before.is_provisioned and not after.is_provisioned:
        yield "Warning", "ServiceLost", "The Service is gone; a worker creates another one. The URL can change."
    if after.attempt != before.attempt and 2 < after.attempt <= _MAX_RETRIES and before.status is after.status:  # noqa: PLR2004 - a second job is usual, for example to terminate
        yield "Warning", "Retried", f"No progress; job {after.attempt} enqueued."
    if after.is_provisioned and not before.is_provisioned:
        yield "Normal", "Provisioned", f"Pod {after.pod_name} and its Service exist; the URL is {after.url}"
    if before.timings.ready is None and after.timings.ready is not None and not after.ready:
        yield "Normal", "Ready", "The sandbox answered for a moment."
    if after.status is not before.status:
        yield _status(after)
    elif (after.reason, after.message) != (before.reason, before.message) and after.reason:
        yield "Warning", after.reason, after.message
    if after.ready and not before.ready:
        yield "Normal", "Ready", "The sandbox is ready."
    if before.ready and not after.ready and after.is_active:
        yield "Warning", "NotReady", "The sandbox is not ready any more."


def _status(record: Sandbox) -> tuple[str, str, str]:
    if record.status is Status.FAILED:
        return "Warning", record.reason, record.message
    if record.status is Status.TERMINATING:
        cause = _EXPIRED.get(record.expired_by, "Delete requested")
        return "Normal", "Terminating", f"{cause}; generation {record.generation} terminates."
    return "Normal", record.status, record.message or f"The Pod is {record.status}."
