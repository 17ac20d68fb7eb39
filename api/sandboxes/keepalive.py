"""The route by which a caller keeps a sandbox alive that it does not otherwise ask for."""

from http import HTTPStatus
from typing import Any

from litestar import Request, post

from api.http import openapi
from api.http.openapi import problems
from api.sandboxes.lookup import there
from api.sandboxes.routes import InPath
from api.sandboxes.schemas import SandboxAnswer, answer
from api.sandboxes.updates import kept_alive
from api.state.app_state import parts
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
) -> SandboxAnswer:
    """Use a sandbox, and with `seconds` keep it at least so long; never beyond its lifetime."""
    asked = read_keep_alive(await request.body())
    store = parts(request).store
    outcome = await store.change(sandbox_id, kept_alive(store.now(), asked.seconds))
    record = await there(sandbox_id, outcome.record, parts(request))
    if not record.wants_pod:
        detail = f"Sandbox {record.id} is over: {record.reason} {record.message}".strip()
        raise SandboxNotFound(detail, status=record.status.value, reason=record.reason)
    return answer(record)
