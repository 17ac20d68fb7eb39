"""The jobs of the queue, in arq's own format.

The store writes a job in the same atomic step as the record that needs the job, so neither can exist without the
other. arq's `enqueue_job` could not do that. The step writes the same two keys in the same format; tests compare both.
A job id names incarnation and attempt, so a lost job never blocks the next one.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Self

import msgspec
from arq.constants import expires_extra_ms
from arq.jobs import serialize_job

from shared.sandbox.record import Sandbox

CREATE_PRIORITY_SECONDS = 3600.0
"""Head start of a create in the queue. A caller waits for it, so it overtakes jobs that are less than an hour late."""
EXPIRES_MS = expires_extra_ms
"""Lifetime of the key of a job; arq's own."""

encode: Callable[[dict[str, Any]], bytes] = msgspec.msgpack.Encoder(enc_hook=repr).encode
"""Serializer for arq. `repr` also encodes the exception of a failed job, which arq writes as its result."""
decode: Callable[[bytes], dict[str, Any]] = msgspec.msgpack.Decoder().decode


class JobKind(StrEnum):
    """Names in the queue of the functions that a worker runs."""

    PROVISION = "provision"
    TERMINATE = "terminate"
    PROBE_ACTIVITY = "probe_activity"


class Job(msgspec.Struct, frozen=True):
    kind: JobKind
    sandbox_id: str
    incarnation: str
    attempt: int = 1
    at: float | None = None
    """Time at which the job is due, in seconds since the epoch; None for now."""

    @classmethod
    def of(cls, kind: JobKind, record: Sandbox, at: float | None = None) -> Self:
        return cls(kind, record.id, record.incarnation, record.attempt, at)

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.sandbox_id}:{self.incarnation}:{self.attempt}"

    def score(self, now: float) -> int:
        """Return the job's place in the queue, milliseconds since the epoch. Creates overtake overdue clean-ups."""
        head_start = CREATE_PRIORITY_SECONDS if self.kind is JobKind.PROVISION else 0.0
        return int((now - head_start if self.at is None else self.at) * 1000)

    def payload(self, now: float) -> bytes:
        """Return the value of the job's key in arq's format. `now` is in seconds since the epoch."""
        raw: bytes = serialize_job(
            self.kind, (self.sandbox_id, self.incarnation, self.attempt), {}, None, int(now * 1000), serializer=encode
        )
        return raw
