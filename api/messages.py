"""What our answers look like on the wire, and nothing of how we keep it. (What is asked of us: `shared.request`.)"""

from datetime import UTC, datetime

import msgspec

from shared.sandbox import Sandbox


class SandboxAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`sandbox_url` is null until it is known. `status` is the Pod's phase, `ready` its Ready condition."""

    sandbox_id: str
    sandbox_url: str | None
    status: str
    ready: bool
    reason: str
    message: str
    generation: int
    user_id: str
    thread_id: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class SandboxList(msgspec.Struct, frozen=True, omit_defaults=True):
    """`next_cursor` is there when there are more pages: not in a whole list, nor in the last page of one."""

    sandboxes: list[SandboxAnswer]
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


def answer(record: Sandbox) -> SandboxAnswer:
    return SandboxAnswer(
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
        expires_at=None if record.expires_at is None else _time(record.expires_at),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), tz=UTC)
