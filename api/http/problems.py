"""Error answers: every error becomes `application/problem+json` (RFC 9457).

`code` is stable and for programs; DeerFlow shows `detail` to people.
"""

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
"""Codes of Litestar's own errors. Python's phrases are not stable: the phrase of 413 has changed once."""
AnyRequest = Request[Any, Any, Any]
Problem = Response[dict[str, object]]


def handle_provisioner_error(_: AnyRequest, error: ProvisionerError) -> Problem:
    metrics.count_refusal(error.code)
    response = _problem(error.status, error.code, error.title, error.detail, error.extra)
    response.headers.update(error.headers)
    return response


def handle_http_exception(request: AnyRequest, error: HTTPException) -> Problem:
    """Answer an error of Litestar: an unknown route, a wrong method, a bad parameter, or a body that is too large."""
    if isinstance(error, ValidationException):
        return handle_provisioner_error(request, _invalid_request(error))
    phrase = HTTPStatus(error.status_code).phrase
    code = _CODES.get(error.status_code) or re.sub(r"\W+", "_", phrase.lower())
    metrics.count_refusal(code)
    extra = {"field": "body"} if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else {}
    response = _problem(error.status_code, code, phrase, error.detail, extra)
    response.headers.update(error.headers or {})
    return response


def handle_unexpected(_: AnyRequest, error: Exception) -> Problem:
    """Answer a bug. The log of the server has the error's text; the answer does not, since that text may be secret."""
    log.error("unexpected error", exc_info=error)
    detail = "The server has a bug. Its log has the error."
    return _problem(500, ProvisionerError.code, ProvisionerError.title, detail, {})


def _invalid_request(error: ValidationException) -> InvalidRequest:
    first = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    field, message = str(first.get("key", "request")), str(first.get("message", error.detail))
    if first.get("source") == "path":
        message = f"expected {TEXT_RULES[field].expected}"  # Litestar's message shows the pattern
    return InvalidRequest(f"{field}: {message}", field=field)


def _problem(status: int, code: str, title: str, detail: str, extra: Mapping[str, object]) -> Problem:
    """Return the answer. `extra` may replace a member: the `status` of a sandbox being deleted is `Terminating`."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **extra}
    return Response(body, status_code=status, media_type=MEDIA_TYPE)


HANDLERS: ExceptionHandlersMap = {
    ProvisionerError: handle_provisioner_error,
    HTTPException: handle_http_exception,
    Exception: handle_unexpected,
}
