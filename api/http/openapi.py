"""What the OpenAPI document says beyond the handlers' own types: the create's body, errors, the key; and its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)

from api.http.auth import HEADER
from api.http.problems import MEDIA_TYPE
from api.sandboxes.schemas import SandboxResponse, example
from shared.sandbox import request
from shared.sandbox.request import CreateSandbox

KEY = "key"
STATIC = "/schema/static"
"""Where the browsable page finds its scripts: here, so that it works without a network."""

_TEMPLATE = "#/components/schemas/{name}"
_TEXTS = {
    400: "something breaks a rule; `field` names it",
    401: "no key, or not this server's",
    404: "there is no such sandbox, or it is being deleted (`status` then says so), or its time was over (`code`)",
    412: "the present life of the sandbox is not the one that is meant",
    413: "the body is over 64 KiB",
    429: "there is no room for one more sandbox, or there were too many requests; see `Retry-After`",
    503: "Redis does not answer, or was emptied, or (DEERFLOW_COMPAT) there is no URL yet; nothing is claimed",
}


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457. `code` is stable (docs/errors.md lists them), `detail` is for people. `status` is the HTTP status, but
    of a sandbox that is being deleted `Terminating`, and of one that is over (DEERFLOW_COMPAT) how it ended."""

    type: Annotated[str, example("about:blank")]
    title: Annotated[str, example("Invalid request")]
    status: Annotated[int | str, example(400)]
    detail: Annotated[str, example("user_id: Expected `str`, got `int`")]
    code: Annotated[str, example("invalid_request")]
    field: Annotated[str, example("user_id")] = ""
    generation: int = 0
    reason: str = ""
    limit: str = ""
    expired_at: Annotated[str, example("2026-11-22T10:00:00Z")] = ""
    expired_by: Annotated[str, example("idle")] = ""
    missing: Annotated[list[str], example([])] = []


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The error answers of a handler; 401, 429 and 503 are everybody's."""
    return {status: problem(_TEXTS[status]) for status in sorted({*statuses, 401, 429, 503})}


def problem(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, generate_examples=False, description=text, media_type=_PROBLEM)


_PROBLEM = cast(Any, MEDIA_TYPE)  # Litestar's type names its own media types only, and takes any


def response(text: str) -> ResponseSpec:
    return ResponseSpec(SandboxResponse, generate_examples=False, description=text)


def empty(text: str) -> ResponseSpec:
    return ResponseSpec(None, generate_examples=False, description=text)


@dataclass
class Create(Operation):
    """The create decodes its body itself, once and straight into its struct; so its body is said here."""

    def __post_init__(self) -> None:
        example = {"sandbox_id": "0123456789abcdef", "user_id": "u1", "thread_id": "t1"}
        media = OpenAPIMediaType(schema=_body_schema(CreateSandbox), example=example)
        self.request_body = RequestBody(content={"application/json": media}, required=True)


@dataclass
class KeepAlive(Operation):
    """As the create; its body may be left out."""

    def __post_init__(self) -> None:
        media = OpenAPIMediaType(schema=_body_schema(request.KeepAlive), example={"seconds": 600})
        self.request_body = RequestBody(content={"application/json": media}, required=False)


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="DeerFlow Sandbox Provisioner",
        version="1",
        description="Sandboxes for DeerFlow: one Kubernetes Pod and Service each. Answers tell what was last seen.",
        security=[{KEY: []}],
        components=Components(
            security_schemes={KEY: SecurityScheme(type="apiKey", name=HEADER, security_scheme_in="header")},
        ),
        use_handler_docstrings=True,
        render_plugins=[
            SwaggerRenderPlugin(
                favicon="<link rel='icon' href='data:,'>",
                js_url=f"{STATIC}/swagger-ui-bundle.js",
                css_url=f"{STATIC}/swagger-ui.css",
                standalone_preset_js_url=f"{STATIC}/swagger-ui-standalone-preset.js",
            )
        ],
    )


def _body_schema(body: type[msgspec.Struct]) -> Schema:
    """Of a request's body, whole and in place: Litestar's list of components has room for its own only."""
    (reference,), components = msgspec.json.schema_components([body], ref_template=_TEMPLATE)
    return Schema(**_in_place(reference, components))


def _in_place(schema: Any, components: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_in_place(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _in_place(components[schema["$ref"].removeprefix(_TEMPLATE.format(name=""))], components)
    return {key: _in_place(part, components) for key, part in schema.items()}
