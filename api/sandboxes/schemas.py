"""What our answers look like on the wire, and nothing of how we keep it. (What is asked of us: `shared.sandbox.request`.)"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.sandbox.history import HistoryEntry
from shared.sandbox.record import Sandbox

AT_ONCE = 100
"""Answers made without a pause."""


def example(value: object) -> Meta:
    return Meta(examples=[value])


class TimingsMs(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the acceptance to each stage; null until it is reached, or when nobody saw it.

    `queued`: a worker took it up. `created`: Pod and Service are made. The rest as the Pod's conditions have it.
    """

    queued: Annotated[int | None, example(12)]
    created: Annotated[int | None, example(64)]
    scheduled: Annotated[int | None, example(70)]
    running: Annotated[int | None, example(910)]
    ready: Annotated[int | None, example(1204)]


class SandboxResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`sandbox_url` is null until it is known. `status` is the Pod's phase, `ready` its Ready condition."""

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
    expires_at: Annotated[datetime | None, Meta(description="when it is ended if nobody uses it any more")]
    expires_by: Annotated[str | None, Meta(description="what would end it, `idle` or `lifetime`", examples=["idle"])]
    timings_ms: TimingsMs


class Event(msgspec.Struct, frozen=True):
    """`source` is `provisioner`, or the component of Kubernetes that says so. `type` is `Normal` or `Warning`."""

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
    """`next_cursor` is there when there are more pages: not in a whole list, nor in the last page of one."""

    sandboxes: list[SandboxResponse]
    count: int
    next_cursor: str | None = None


class Deleted(msgspec.Struct, frozen=True):
    sandbox_id: str
    ok: bool = True


class Capabilities(msgspec.Struct, frozen=True):
    lark_cli_init_image: bool
    lark_cli_broker_image: bool


class Health(msgspec.Struct, frozen=True):
    status: str = "ok"


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
    """One each. Those who ask for something else meanwhile have their turn in between."""
    found: list[SandboxResponse] = []
    for start in range(0, len(records), AT_ONCE):
        found += map(to_response, records[start : start + AT_ONCE])
        await asyncio.sleep(0)
    return found


def event(entry: HistoryEntry) -> Event:
    return Event(_time(entry.at), entry.source, entry.type, entry.reason, entry.message)


def _timings(record: Sandbox) -> TimingsMs:
    def since(reached: float | None) -> int | None:
        return None if reached is None else max(0, round((reached - record.created_at) * 1000))

    timings = record.timings
    return TimingsMs(
        queued=since(timings.queued),
        created=since(timings.created),
        scheduled=since(timings.scheduled),
        running=since(timings.running),
        ready=since(timings.ready),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), tz=UTC)
