"""What goes over the wire: the contract's requests and answers, and nothing of how we keep them."""

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import InvalidRequest
from shared.sandbox import Mount, Sandbox, Spec

SANDBOX_ID = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$(?!\n)"
"""A DNS label. At most 40 characters, so that `sandbox-{id}-svc` and the names of later lives fit in 63."""
SANDBOX_ID_LENGTH = 40

SandboxId = Annotated[
    str,
    Meta(pattern=SANDBOX_ID, min_length=1, max_length=SANDBOX_ID_LENGTH, examples=["0123456789abcdef"]),
]
UserId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$(?!\n)", examples=["default"])]
ThreadId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)", examples=["thread-1"])]


class ExtraMount(msgspec.Struct, frozen=True):
    host_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    container_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    read_only: bool = False


class CreateSandbox(msgspec.Struct, frozen=True):
    """Unknown fields are ignored: a newer backend must not break on us."""

    sandbox_id: SandboxId | None = None
    thread_id: ThreadId | None = None
    user_id: UserId = "default"
    extra_mounts: Annotated[list[ExtraMount], Meta(max_length=10)] | None = None
    include_legacy_skills: bool = False
    provision_lark_cli_runtime: bool = False
    provision_lark_cli_broker: bool = False

    def spec(self) -> Spec:
        mounts = self.extra_mounts or []
        return Spec(
            user_id=self.user_id,
            thread_id=self.thread_id,
            extra_mounts=tuple(Mount(m.host_path, m.container_path, m.read_only) for m in mounts),
            provision_lark_cli_runtime=self.provision_lark_cli_runtime,
            provision_lark_cli_broker=self.provision_lark_cli_broker,
        )


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


_decode_create = msgspec.json.Decoder(CreateSandbox).decode
_AT = re.compile(r" - at `\$\.?(?P<field>.*)`$")


def read_create(body: bytes) -> CreateSandbox:
    """The create request in `body`.

    Raises:
        InvalidRequest: it is not JSON, or a field breaks its rule; names the field (`extra_mounts[1].host_path`).
    """
    try:
        return _decode_create(body.decode())  # as text, so that what it skips is UTF-8 too
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        field = at["field"] if at else "body"
        raise InvalidRequest(f"{field}: {_AT.sub('', text)}", field=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}", field="body") from error


_is_sandbox_id = re.compile(SANDBOX_ID).match


def read_id(sandbox_id: str) -> str:
    """Raises InvalidRequest when `sandbox_id`, from a path, cannot be one: nothing is looked up then."""
    if len(sandbox_id) > SANDBOX_ID_LENGTH or not _is_sandbox_id(sandbox_id):
        raise InvalidRequest(
            f"sandbox_id: expected a DNS label of at most {SANDBOX_ID_LENGTH} characters (a-z, 0-9, inner dashes)",
            field="sandbox_id",
        )
    return sandbox_id
