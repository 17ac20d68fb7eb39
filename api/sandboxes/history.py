"""What happened to a sandbox: the route that tells it."""

from typing import Any

from litestar import Request, get

from api.http.openapi import problems
from api.sandboxes.routes import InPath
from api.sandboxes.schemas import History, event
from api.state.app_state import app_state
from shared.errors import SandboxNotFound


@get("/sandboxes/{sandbox_id:str}/events", responses=problems(400, 404))
async def read(
    request: Request[Any, Any, Any],
    sandbox_id: InPath,
) -> History:
    """What we did and saw, and what Kubernetes said of its Pod: the last of it, in all lives of the id, newest last.

    There as long as the sandbox has a record, also while it is being deleted.
    """
    state = app_state(request)
    entries = await state.store.history(sandbox_id)
    if not entries and await state.store.get(sandbox_id) is None:
        await state.sync_gate.require()
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    return History(sandbox_id, [event(entry) for entry in entries], len(entries))
