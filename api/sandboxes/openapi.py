"""OpenAPI of the sandbox routes: the bodies that handlers decode themselves, and the sandbox as a response."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from api.sandboxes.schemas import SandboxResponse
from shared.sandbox import request

_TEMPLATE = "#/components/schemas/{name}"


@dataclass
class Create(Operation):
    """Describes the body of a create.

    The handler decodes its body itself. Litestar would convert types (`"true"` becomes true) and would answer deeply
    nested JSON with 500.
    """

    def __post_init__(self) -> None:
        example = {"sandbox_id": "0123456789abcdef", "user_id": "u1", "thread_id": "t1"}
        self.request_body = _body(request.CreateSandbox, example, required=True)


@dataclass
class KeepAlive(Operation):
    """Describes the body of a keep-alive, which is optional."""

    def __post_init__(self) -> None:
        self.request_body = _body(request.KeepAlive, {"seconds": 600}, required=False)


def response(text: str) -> ResponseSpec:
    return ResponseSpec(SandboxResponse, generate_examples=False, description=text)


def _body(struct: type[msgspec.Struct], example: Mapping[str, object], *, required: bool) -> RequestBody:
    """Return a body with its whole schema in place, because Litestar's components hold only its own schemas."""
    (reference,), components = msgspec.json.schema_components([struct], ref_template=_TEMPLATE)
    schema = Schema(**_in_place(reference, components))
    media = OpenAPIMediaType(schema=schema, example=example)
    return RequestBody(content={"application/json": media}, required=required)


def _in_place(schema: Any, components: Mapping[str, Any]) -> Any:
    """Return `schema` with each reference replaced by its component."""
    if isinstance(schema, list):
        return [_in_place(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _in_place(components[schema["$ref"].removeprefix(_TEMPLATE.format(name=""))], components)
    return {key: _in_place(part, components) for key, part in schema.items()}
