"""The jobs of the queue, in arq's own format.

arq's `enqueue_job` is not used: a job is written in the same atomic step as the record that asks for it
(`shared.store.store`), so that neither can exist without the other. What that step writes is what arq would: its format, its
two keys; tests hold it to arq's own reading. Job ids name life and attempt, so that a lost job never blocks the next.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Self

import msgspec
from arq.constants import expires_extra_ms
from arq.jobs import serialize_job

from shared.sandbox.record import Sandbox

CLOCK_SKEW_SECONDS = 60.0
"""arq's workers compare a job's time with their own host's clock: one that is behind by less loses nothing."""
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
    """When it is due, seconds since the epoch; None: at once, before all that is due at a time."""

    @classmethod
    def of(cls, kind: JobKind, record: Sandbox, at: float | None = None) -> Self:
        return cls(kind, record.id, record.incarnation, record.attempt, at)

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.sandbox_id}:{self.incarnation}:{self.attempt}"

    def score(self, now: float) -> int:
        """Its place in the queue, milliseconds. Creates come first: before clean-ups that are late, too."""
        head_start = CREATE_PRIORITY_SECONDS if self.kind is JobKind.PROVISION else CLOCK_SKEW_SECONDS
        return int((now - head_start if self.at is None else self.at) * 1000)

    def payload(self, now: float) -> bytes:
        """What arq's worker expects under the job's key; `now` in seconds since the epoch."""
        raw: bytes = serialize_job(
            self.kind, (self.sandbox_id, self.incarnation, self.attempt), {}, None, int(now * 1000), serializer=encode
        )
        return raw
