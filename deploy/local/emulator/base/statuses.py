"""Every refusal of the API server: one error family that turns into a `Status` body.

Reasons, codes and wordings are those of `k8s.io/apimachinery/pkg/api/errors` and `.../validation/field`, 1.36.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

Object = dict[str, Any]

TOO_MANY_REQUESTS = 429


class ApiError(Exception):
    """A refusal: HTTP code, the reason clients decide by, the message people read."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def retry_after(self) -> int | None:
        """Seconds, also sent as the `Retry-After` header."""
        return (self.details or {}).get("retryAfterSeconds")

    def body(self, metadata: Object | None = None) -> Object:
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": metadata or {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


class ContinueExpired(ApiError):
    """A continue token whose snapshot is gone; the body carries one that goes on without a snapshot."""

    def __init__(self, token: str) -> None:
        super().__init__(410, "Expired", CONTINUE_EXPIRED)
        self.token = token

    def body(self, metadata: Object | None = None) -> Object:
        return super().body({**(metadata or {}), "continue": self.token})


CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field, as `field.Error` words it."""

    field: str
    reason: str
    message: str

    def cause(self) -> Object:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def invalid_value(field: str, value: Any, detail: str) -> FieldError:
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {_quoted(value)}: {detail}")


def required_value(field: str, detail: str = "") -> FieldError:
    return FieldError(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def duplicate_value(field: str, value: Any) -> FieldError:
    return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {_quoted(value)}")


def unknown_value(field: str, value: Any) -> FieldError:
    return FieldError(field, "FieldValueNotFound", f"Not found: {_quoted(value)}")


def unsupported_value(field: str, value: Any, supported: Iterable[str]) -> FieldError:
    listed = ", ".join(_quoted(word) for word in supported)
    return FieldError(
        field, "FieldValueNotSupported", f"Unsupported value: {_quoted(value)}: supported values: {listed}"
    )


def forbidden_value(field: str, detail: str) -> FieldError:
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long_value(field: str, limit: int) -> FieldError:
    return FieldError(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def _named(name: str, resource: str, **more: Any) -> Object:
    details: Object = {"name": name} if name else {}
    return {**details, "kind": resource, **more}


def invalid(kind: str, name: str, errors: list[FieldError]) -> ApiError:
    """422 with every cause; the message holds each distinct one once, in brackets when there are several."""
    words = list(dict.fromkeys(str(error) for error in errors))
    told = words[0] if len(words) == 1 else "[" + ", ".join(words) + "]"
    causes = [error.cause() for error in errors]
    short, _, group = kind.partition(".")
    details = {"name": name, "group": group, "kind": short, "causes": causes}
    kept = {key: value for key, value in details.items() if value}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {told}', kept)


def not_found(resource: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', _named(name, resource))


def already_exists(resource: str, name: str, *, is_terminating: bool = False) -> ApiError:
    prefix = "object is being deleted: " if is_terminating else ""
    return ApiError(409, "AlreadyExists", f'{prefix}{resource} "{name}" already exists', _named(name, resource))


def conflict(resource: str, name: str, detail: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {detail}'
    return ApiError(409, "Conflict", message, _named(name, resource))


def forbidden(resource: str, name: str, detail: str, causes: list[Object] | None = None) -> ApiError:
    details = _named(name, resource, **({"causes": causes} if causes else {}))
    return ApiError(403, "Forbidden", f'{resource} "{name}" is forbidden: {detail}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def too_large(limit: int) -> ApiError:
    """Bytes."""
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported_media_type(accepted: str) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def internal(detail: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {detail}", {"causes": [{"message": detail}]})


def version_too_large(asked: int, current: int) -> ApiError:
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})
