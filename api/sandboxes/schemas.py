"""Response bodies of the sandbox routes. The bodies of requests are in `shared.sandbox.request`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from api.http.openapi import example
from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox

RESPONSE_CHUNK = 100
"""Responses built before other requests get a turn of the event loop."""


class TimingsMs(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the create to each stage; null until the stage is reached, or if no worker saw it.

    `queued`: a worker started the job. `created`: Pod and Service exist. The others come from the Pod's conditions.
    """

    queued: Annotated[int | None, example(12)]
    created: Annotated[int | None, example(64)]
    scheduled: Annotated[int | None, example(70)]
    running: Annotated[int | None, example(910)]
    ready: Annotated[int | None, example(1204)]


class SandboxResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`sandbox_url` is null until the URL is known. `status` is the Pod's phase, `ready` its Ready condition."""

    sandbox_id: Annotated[str, example("0123456789abcdef")]
    sandbox_url: Annotated[str | None, example("http://192.0.2.10:31167")]
    status: Annotated[str, example("Running")]
    ready: Annotated[bool, example(True)]
    reason: Annotated[str, example("")]
    message: Annotated[str, example("")]
    generation: Annotated[int, example(1)]
    user_id: Annotated[str, example("u1")]
    thread_id: Annotated[str, example("t1")]
    created_at: datetime
    updated_at: datetime
    expires_at: Annotated[datetime | None, Meta(description="when the sandbox expires without further use")]
    expires_by: Annotated[str | None, Meta(description="cause of that expiry, `idle` or `lifetime`", examples=["idle"])]
    timings_ms: TimingsMs


class Event(msgspec.Struct, frozen=True):
    """`source` is `provisioner` or a component of Kubernetes. `type` is `Normal` or `Warning`."""

    at: datetime
    source: Annotated[str, example("kubelet")]
    type: Annotated[str, example("Warning")]
    reason: Annotated[str, example("FailedMount")]
    message: Annotated[str, example('MountVolume.SetUp failed for volume "skills"')]


class History(msgspec.Struct, frozen=True):
    sandbox_id: str
    events: list[Event]
    count: int


class SandboxList(msgspec.Struct, frozen=True, omit_defaults=True):
    """`next_cursor` exists if more pages follow. A complete list and a last page have none."""

    sandboxes: list[SandboxResponse]
    count: int
    next_cursor: str | None = None


class Deleted(msgspec.Struct, frozen=True):
    sandbox_id: str
    ok: bool = True


def to_response(record: Sandbox) -> SandboxResponse:
    expiry = record.expiry
    return SandboxResponse(
        sandbox_id=record.id,
        sandbox_url=record.url or None,
        status=record.status,
        ready=record.ready,
        reason=record.reason,
        message=record.message,
        generation=record.generation,
        user_id=record.spec.user_id,
        thread_id=record.thread_id,
        created_at=_time(record.created_at),
        updated_at=_time(record.updated_at),
        expires_at=_time(expiry.at) if expiry else None,
        expires_by=expiry.by if expiry else None,
        timings_ms=_timings(record),
    )


async def to_responses(records: Sequence[Sandbox]) -> list[SandboxResponse]:
    """Return one response a record. Other requests get their turn in between."""
    responses: list[SandboxResponse] = []
    for start in range(0, len(records), RESPONSE_CHUNK):
        responses += map(to_response, records[start : start + RESPONSE_CHUNK])
        await asyncio.sleep(0)
    return responses


def to_event(entry: HistoryEntry) -> Event:
    return Event(_time(entry.at), entry.source, entry.type, entry.reason, entry.message)


def _timings(record: Sandbox) -> TimingsMs:
    def since_create(reached_at: float | None) -> int | None:
        return None if reached_at is None else max(0, round((reached_at - record.created_at) * 1000))

    timings = record.timings
    return TimingsMs(
        queued=since_create(timings.queued),
        created=since_create(timings.created),
        scheduled=since_create(timings.scheduled),
        running=since_create(timings.running),
        ready=since_create(timings.ready),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), tz=UTC)
