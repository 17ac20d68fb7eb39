"""Errors of the API server: one class, and one function for each kind of error.

Reasons, codes and messages are those of `k8s.io/apimachinery/pkg/api/errors` and `.../validation/field`, 1.36.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

Object = dict[str, Any]

TOO_MANY_REQUESTS = 429


class ApiError(Exception):
    """An error response: the HTTP code, the reason for programs, and the message for people."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def retry_after(self) -> int | None:
        """The seconds that the server also sends as `Retry-After` header."""
        return (self.details or {}).get("retryAfterSeconds")

    def body(self, metadata: Object | None = None) -> Object:
        """Return the `Status` object."""
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": metadata or {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


class ContinueExpired(ApiError):
    """The snapshot of a continue token expired. The body carries a token that continues without a snapshot."""

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
    """An error of a field, worded as in `field.Error`."""

    field: str
    reason: str
    message: str

    def cause(self) -> Object:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def _quote(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def invalid_value(field: str, value: Any, detail: str) -> FieldError:
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {_quote(value)}: {detail}")


def required_value(field: str, detail: str = "") -> FieldError:
    return FieldError(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def duplicate_value(field: str, value: Any) -> FieldError:
    return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {_quote(value)}")


def unknown_value(field: str, value: Any) -> FieldError:
    return FieldError(field, "FieldValueNotFound", f"Not found: {_quote(value)}")


def unsupported_value(field: str, value: Any, supported: Iterable[str]) -> FieldError:
    values = ", ".join(_quote(word) for word in supported)
    return FieldError(
        field, "FieldValueNotSupported", f"Unsupported value: {_quote(value)}: supported values: {values}"
    )


def forbidden_value(field: str, detail: str) -> FieldError:
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long_value(field: str, limit: int) -> FieldError:
    return FieldError(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def _named(name: str, resource: str, **more: Any) -> Object:
    details: Object = {"name": name} if name else {}
    return {**details, "kind": resource, **more}


def invalid(kind: str, name: str, errors: list[FieldError]) -> ApiError:
    """Return a 422 with all causes. The message holds each distinct one once, several in brackets."""
    messages = list(dict.fromkeys(str(error) for error in errors))
    message = messages[0] if len(messages) == 1 else "[" + ", ".join(messages) + "]"
    causes = [error.cause() for error in errors]
    short, _, group = kind.partition(".")
    details = {"name": name, "group": group, "kind": short, "causes": causes}
    non_empty = {key: value for key, value in details.items() if value}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {message}', non_empty)


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
    """Return a 413 for a body of more than `limit` bytes."""
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


def version_too_large(version: int, current: int) -> ApiError:
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})
