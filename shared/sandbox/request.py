"""What a caller asks for, as it comes over the wire, and the rules that its fields keep by themselves."""

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import InvalidRequest
from shared.sandbox.record import Mount, Spec

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


Seconds = Annotated[int, Meta(ge=1, le=31_536_000, examples=[600])]
"""At most a year: what is longer is no time, but a mistake."""


class CreateSandbox(msgspec.Struct, frozen=True):
    """Unknown fields are ignored: a newer backend must not break on us."""

    sandbox_id: SandboxId | None = None
    thread_id: ThreadId | None = None
    user_id: UserId = "default"
    extra_mounts: Annotated[list[ExtraMount], Meta(max_length=10)] | None = None
    include_legacy_skills: bool = False
    provision_lark_cli_runtime: bool = False
    provision_lark_cli_broker: bool = False
    idle_timeout_seconds: Seconds | None = None
    lifetime_seconds: Seconds | None = None

    def spec(self) -> Spec:
        mounts = self.extra_mounts or []
        return Spec(
            user_id=self.user_id,
            thread_id=self.thread_id,
            extra_mounts=tuple(Mount(m.host_path, m.container_path, m.read_only) for m in mounts),
            provision_lark_cli_runtime=self.provision_lark_cli_runtime,
            provision_lark_cli_broker=self.provision_lark_cli_broker,
            idle_timeout_seconds=self.idle_timeout_seconds,
            lifetime_seconds=self.lifetime_seconds,
        )


class KeepAlive(msgspec.Struct, frozen=True):
    """`seconds`: to be kept at least for so long from now; none: one use, as a GET is."""

    seconds: Seconds | None = None


T = TypeVar("T")
_decode_create = msgspec.json.Decoder(CreateSandbox).decode
_decode_keep_alive = msgspec.json.Decoder(KeepAlive).decode
_AT = re.compile(r" - at `\$\.?(?P<field>.*)`$")


def read_create(body: bytes) -> CreateSandbox:
    """The create request in `body`. Raises InvalidRequest, as `_read` does."""
    return _read(_decode_create, body)


def read_keep_alive(body: bytes) -> KeepAlive:
    """The keep-alive in `body`, which may be empty. Raises InvalidRequest, as `_read` does."""
    return _read(_decode_keep_alive, body) if body.strip() else KeepAlive()


def _read(decode: Callable[[str], T], body: bytes) -> T:
    """
    Raises:
        InvalidRequest: it is not JSON, or a field breaks its rule; names the field (`extra_mounts[1].host_path`).
    """
    try:
        return decode(body.decode())  # as text, so that what it skips is UTF-8 too
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        field = at["field"] if at else "body"
        raise InvalidRequest(f"{field}: {_AT.sub('', text)}", field=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}", field="body") from error
