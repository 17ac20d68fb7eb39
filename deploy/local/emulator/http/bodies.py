"""Request bodies: JSON, checked against the schema of the kind, and pruned."""

from typing import Any

import msgspec

from deploy.local.emulator.base.quantities import InvalidQuantity, parse_quantity
from deploy.local.emulator.base.statuses import ApiError, Object, bad_request, unsupported_media_type
from deploy.local.emulator.storage.kinds import Kind

_JSON = ("", "application/json")
_ACCEPTED = "application/json, application/yaml, application/vnd.kubernetes.protobuf"


def read_object(kind: Kind, body: bytes, content_type: str) -> Object:
    """Return the object in a request. Unknown fields are dropped, as by the default field validation."""
    if content_type.partition(";")[0].strip() not in _JSON:
        raise unsupported_media_type(_ACCEPTED)
    try:
        raw = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        detail = f"couldn't get version/kind; json parse error: {error}"
        raise bad_request(f"the object provided is unrecognized (must be of type {kind.name}): {detail}") from error
    _check_type(kind, raw)
    return convert(kind, raw)


def _check_type(kind: Kind, raw: Any) -> None:
    if not isinstance(raw, dict):
        detail = f"couldn't get version/kind; json parse error: not an object: {type(raw).__name__}"
        raise bad_request(f"the object provided is unrecognized (must be of type {kind.name}): {detail}")
    version, name = raw.get("apiVersion") or "v1", raw.get("kind") or kind.name
    if (version, name) != ("v1", kind.name):
        detail = f"converting ({version}.{name}) to (core.{kind.name}): unknown conversion"
        raise bad_request(f'{name} in version "{version}" cannot be handled as a {kind.name}: {detail}')


def convert(kind: Kind, raw: Object) -> Object:
    """Check the types of all fields, and drop empty values."""
    try:
        typed = msgspec.convert(_without_nulls(raw), kind.schema)
    except msgspec.ValidationError as error:
        raise _cannot_be_handled(kind, f"json: cannot unmarshal: {error}") from error
    body: Object = msgspec.to_builtins(typed)
    body.setdefault("metadata", {})
    if "spec" in kind.schema.__struct_fields__:
        body.setdefault("spec", {})
    _check_quantities(kind, body)
    return body


def _without_nulls(value: Any) -> Any:
    """Drop nulls, which mean the same as absent fields."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _check_quantities(kind: Kind, body: Object) -> None:
    try:
        for text in _quantities(body.get("spec", {})):
            parse_quantity(text)
    except InvalidQuantity as error:
        raise _cannot_be_handled(kind, str(error)) from error


def _quantities(spec: Object) -> list[str | float]:
    parts = [*spec.get("initContainers", []), *spec.get("containers", []), spec]
    tables = [part.get("resources", {}).get(side, {}) for part in parts for side in ("limits", "requests")]
    tables += [spec.get("overhead", {}), spec.get("hard", {})]
    sizes = [volume.get("emptyDir", {}).get("sizeLimit", "0") for volume in spec.get("volumes", [])]
    return [text for table in tables for text in table.values()] + sizes


def _cannot_be_handled(kind: Kind, detail: str) -> ApiError:
    return bad_request(f'{kind.name} in version "v1" cannot be handled as a {kind.name}: {detail}')
