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
"""Somebody waits for a create: it overtakes whatever else is less than an hour late."""
EXPIRES_MS = expires_extra_ms

encode: Callable[[dict[str, Any]], bytes] = msgspec.msgpack.Encoder(enc_hook=repr).encode
"""arq's serialiser; `repr` lets it also write the exception of a job that failed."""
decode: Callable[[bytes], dict[str, Any]] = msgspec.msgpack.Decoder().decode


class JobKind(StrEnum):
    """The functions a worker runs, by the names they have in the queue."""

    PROVISION = "provision"
    TERMINATE = "terminate"
    PROBE_ACTIVITY = "probe_activity"


class Job(msgspec.Struct, frozen=True):
    kind: JobKind
    sandbox_id: str
    incarnation: str
    attempt: int = 1
    at: float | None = None
    """When the job is due, seconds since the epoch; None: now."""

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
        """What arq's worker expects under the job's key; `now` in seconds since the epoch."""
        raw: bytes = serialize_job(
            self.kind, (self.sandbox_id, self.incarnation, self.attempt), {}, None, int(now * 1000), serializer=encode
        )
        return raw
