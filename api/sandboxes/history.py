"""Route `GET /api/sandboxes/{id}/events`: the history of a sandbox."""

from typing import Any

from litestar import Request, get

from api.http.openapi import problems
from api.sandboxes.parameters import SandboxIdInPath
from api.sandboxes.schemas import History, to_event
from api.state.app_state import app_state
from shared.errors import SandboxNotFound


@get("/sandboxes/{sandbox_id:str}/events", responses=problems(400, 404))
async def read(request: Request[Any, Any, Any], sandbox_id: SandboxIdInPath) -> History:
    """Return the latest entries of the history, newest last, over all incarnations of the id.

    An entry is something that this service did or saw, or an Event of the Pod. The history exists as long as the
    sandbox has a record, also while the sandbox is being deleted.
    """
    state = app_state(request)
    entries = await state.store.history(sandbox_id)
    if not entries and await state.store.get(sandbox_id) is None:
        await state.sync_gate.require()
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    return History(sandbox_id, [to_event(entry) for entry in entries], len(entries))
