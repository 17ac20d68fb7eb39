"""The OpenAPI document and its page: problems, the API key, examples. Knows no route."""

from typing import Annotated, Any, cast

import msgspec
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from msgspec import Meta

from api.http.auth import HEADER
from api.http.problems import MEDIA_TYPE

KEY = "key"
STATIC = "/schema/static"
"""Path of the page's scripts. The API serves them, so that the page works without a network."""

_TEXTS = {
    400: "the request breaks a rule; `field` names the value",
    401: "the API key is missing or wrong",
    404: "no such sandbox; `status` is `Terminating` if it is being deleted, `code` tells if it expired",
    412: "the sandbox has another incarnation than the request means",
    413: "the body is larger than 64 KiB",
    429: "a limit on sandboxes or on requests is reached; see `Retry-After`",
    503: "the state of the sandbox is unknown: Redis does not answer or lost its data; or (DEERFLOW_COMPAT) no URL yet",
}


def example(value: object) -> Meta:
    return Meta(examples=[value])


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457. `code` is stable (docs/errors.md lists the codes), `detail` is for people.

    `status` is the HTTP status. If the sandbox is being deleted, `status` is `Terminating`; if the sandbox has ended
    (DEERFLOW_COMPAT), `status` is its last status.
    """

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


_PROBLEM = cast(Any, MEDIA_TYPE)  # Litestar's type lists only its own media types, but Litestar accepts any


def problem(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, generate_examples=False, description=text, media_type=_PROBLEM)


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the error responses of a handler; every handler of `/api` has 401, 429 and 503."""
    return {status: problem(_TEXTS[status]) for status in sorted({*statuses, 401, 429, 503})}


def empty(text: str) -> ResponseSpec:
    return ResponseSpec(None, generate_examples=False, description=text)


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="DeerFlow Sandbox Provisioner",
        version="1",
        description="Sandboxes for DeerFlow: one Kubernetes Pod and Service each. Answers show the state as last seen.",
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
