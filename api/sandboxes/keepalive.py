"""Route `POST /api/sandboxes/{id}/keepalive`: a use of a sandbox that the API does not see otherwise."""

from http import HTTPStatus
from typing import Any

from litestar import Request, post

from api.http.openapi import problems
from api.sandboxes.lookup import record_or_not_found
from api.sandboxes.openapi import KeepAlive
from api.sandboxes.parameters import SandboxIdInPath
from api.sandboxes.schemas import SandboxResponse, to_response
from api.sandboxes.updates import extend
from api.state.app_state import app_state
from shared.errors import SandboxNotFound
from shared.sandbox.request import read_keep_alive


@post(
    "/sandboxes/{sandbox_id:str}/keepalive",
    status_code=HTTPStatus.OK,
    operation_class=KeepAlive,
    responses=problems(400, 404),
)
async def keep_alive(request: Request[Any, Any, Any], sandbox_id: SandboxIdInPath) -> SandboxResponse:
    """Record a use of a sandbox. With `seconds`, keep it at least that long, but never beyond its lifetime."""
    payload = read_keep_alive(await request.body())
    store = app_state(request).store
    result = await store.update(sandbox_id, extend(store.now(), payload.seconds))
    record = await record_or_not_found(sandbox_id, result.record, app_state(request))
    if not record.is_active:
        detail = f"Sandbox {record.id} has ended: {record.reason} {record.message}".strip()
        raise SandboxNotFound(detail, status=record.status.value, reason=record.reason)
    return to_response(record)
