"""Bodies of requests, and the rules that each field must keep on its own."""

import re
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import InvalidRequest
from shared.sandbox.record import MAX_SPEC_SECONDS, Mount, Spec


class TextRule(NamedTuple):
    """`pattern` documents a text field in OpenAPI, in syntax of ECMA and Go. `expected` describes it to people."""

    pattern: str
    expected: str

    @property
    def python_pattern(self) -> str:
        """The pattern for Python, where `$` also matches before a trailing newline."""
        return self.pattern.removesuffix("$") + r"\Z"

    def accepts(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text) is not None


SANDBOX_ID = TextRule(
    r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$",
    "1 to 40 lowercase letters, digits and `-`, with no `-` at either end",
)
"""A DNS label of at most 40 characters: `sandbox-{id}-{generation}-svc` must fit in a label, which has 63."""
USER_ID = TextRule(r"^[A-Za-z0-9_-]{1,128}$", "1 to 128 ASCII letters, digits, `_` and `-`")
THREAD_ID = TextRule(r"^[A-Za-z0-9_-]{1,64}$", "1 to 64 ASCII letters, digits, `_` and `-`")
TEXT_RULES = {"sandbox_id": SANDBOX_ID, "user_id": USER_ID, "thread_id": THREAD_ID}
"""Rules by field. msgspec knows the patterns only for its JSON schema, because its errors show the pattern."""

SandboxId = Annotated[str, Meta(extra_json_schema={"pattern": SANDBOX_ID.pattern}, examples=["0123456789abcdef"])]
UserId = Annotated[str, Meta(extra_json_schema={"pattern": USER_ID.pattern}, examples=["default"])]
ThreadId = Annotated[str, Meta(extra_json_schema={"pattern": THREAD_ID.pattern}, examples=["thread-1"])]


class ExtraMount(msgspec.Struct, frozen=True):
    host_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    container_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    read_only: bool = False


Seconds = Annotated[int, Meta(ge=1, le=MAX_SPEC_SECONDS, examples=[600])]


class CreateSandbox(msgspec.Struct, frozen=True):
    """Body of `POST /api/sandboxes`. Unknown fields are ignored, so that a newer DeerFlow can send more."""

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
    """Body of a keep-alive. `seconds` keeps the sandbox at least that long; without it, the request is one use."""

    seconds: Seconds | None = None


T = TypeVar("T")
_decode_create = msgspec.json.Decoder(CreateSandbox).decode
_decode_keep_alive = msgspec.json.Decoder(KeepAlive).decode
_PATH = re.compile(r" - at `\$\.?(?P<field>.*)`$")
"""End of a message of msgspec: where in the body the wrong value is."""


def read_create(body: bytes) -> CreateSandbox:
    """Decode the body of a create.

    Raises:
        InvalidRequest: the body is not JSON, or a field breaks its rule.
    """
    request = _decode(_decode_create, body)
    for field, rule in TEXT_RULES.items():
        value = getattr(request, field)
        if value is not None and not rule.accepts(value):
            raise InvalidRequest(f"{field}: expected {rule.expected}", field=field)
    return request


def read_keep_alive(body: bytes) -> KeepAlive:
    """Decode the body of a keep-alive, which can be empty.

    Raises:
        InvalidRequest: the body is not JSON, or a field breaks its rule.
    """
    return _decode(_decode_keep_alive, body) if body.strip() else KeepAlive()


def _decode(decode: Callable[[str], T], body: bytes) -> T:
    try:
        return decode(body.decode())  # from text, so that fields which msgspec skips are checked as UTF-8 too
    except msgspec.ValidationError as error:
        text = str(error)
        path = _PATH.search(text)
        field = path["field"] if path else "body"
        raise InvalidRequest(f"{field}: {_PATH.sub('', text)}", field=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}", field="body") from error
