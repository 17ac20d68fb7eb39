"""Every error as `application/problem+json` (RFC 9457): `detail` is what DeerFlow reads, `code` is stable."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from shared import metrics
from shared.errors import InvalidRequest, ProvisionerError
from shared.sandbox.request import TEXT_RULES

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_entity_too_large"}
"""Of what Litestar refuses. Python's phrases for them are not stable: it has had two for 413."""
Handled = Request[Any, Any, Any]
Problem = Response[dict[str, object]]


def handle_provisioner_error(_: Handled, error: ProvisionerError) -> Problem:
    metrics.count_refusal(error.code)
    response = _problem(error.status, error.code, error.title, error.detail, error.extra)
    response.headers.update(error.headers)
    return response


def handle_http_exception(request: Handled, error: HTTPException) -> Problem:
    """What Litestar itself refuses: an unknown route, a method, a query parameter, a body that is too large."""
    if isinstance(error, ValidationException):
        return handle_provisioner_error(request, _invalid(error))
    phrase = HTTPStatus(error.status_code).phrase
    code = _CODES.get(error.status_code) or re.sub(r"\W+", "_", phrase.lower())
    metrics.count_refusal(code)
    extra = {"field": "body"} if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else {}
    response = _problem(error.status_code, code, phrase, error.detail, extra)
    response.headers.update(error.headers or {})
    return response


def _invalid(error: ValidationException) -> InvalidRequest:
    first = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    field, message = str(first.get("key", "request")), str(first.get("message", error.detail))
    if first.get("source") == "path":
        message = f"expected {TEXT_RULES[field].expected}"  # Litestar's message shows the pattern
    return InvalidRequest(f"{field}: {message}", field=field)


def handle_unexpected(_: Handled, error: Exception) -> Problem:
    """A bug. Its text goes to the log, where operators look, and not to the caller."""
    log.error("unexpected error", exc_info=error)
    return _problem(500, ProvisionerError.code, ProvisionerError.title, "Unexpected; the server's log has it.", {})


def _problem(status: int, code: str, title: str, detail: str, extra: Mapping[str, object]) -> Problem:
    """`extra` has the last word: of a sandbox that is being deleted, `status` says so, as the contract has it."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **extra}
    return Response(body, status_code=status, media_type=MEDIA_TYPE)


HANDLERS: ExceptionHandlersMap = {
    ProvisionerError: handle_provisioner_error,
    HTTPException: handle_http_exception,
    Exception: handle_unexpected,
}
