"""The route by which a caller keeps a sandbox alive that it does not otherwise ask for."""

from http import HTTPStatus
from typing import Any

from litestar import Request, post

from api.http import openapi
from api.http.openapi import problems
from api.sandboxes.lookup import record_or_not_found
from api.sandboxes.routes import InPath
from api.sandboxes.schemas import SandboxResponse, to_response
from api.sandboxes.updates import extend
from api.state.app_state import app_state
from shared.errors import SandboxNotFound
from shared.sandbox.request import read_keep_alive


@post(
    "/sandboxes/{sandbox_id:str}/keepalive",
    status_code=HTTPStatus.OK,
    operation_class=openapi.KeepAlive,
    responses=problems(400, 404),
)
async def keep_alive(
    request: Request[Any, Any, Any],
    sandbox_id: InPath,
) -> SandboxResponse:
    """Use a sandbox, and with `seconds` keep it at least so long; never beyond its lifetime."""
    asked = read_keep_alive(await request.body())
    store = app_state(request).store
    outcome = await store.update(sandbox_id, extend(store.now(), asked.seconds))
    record = await record_or_not_found(sandbox_id, outcome.record, app_state(request))
    if not record.is_active:
        detail = f"Sandbox {record.id} is over: {record.reason} {record.message}".strip()
        raise SandboxNotFound(detail, status=record.status.value, reason=record.reason)
    return to_response(record)
