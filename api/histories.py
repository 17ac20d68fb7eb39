"""What happened to a sandbox: the route that tells it."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from api.messages import History, event
from api.openapi import problems
from shared.errors import SandboxNotFound
from shared.request import SANDBOX_ID, SANDBOX_ID_LENGTH
from shared.store import Store
from shared.vitals import Completeness


@get("/sandboxes/{sandbox_id:str}/events", responses=problems(400, 404))
async def read(
    sandbox_id: Annotated[str, PathParameter(pattern=SANDBOX_ID, max_length=SANDBOX_ID_LENGTH)],
    store: NamedDependency[Store],
    completeness: NamedDependency[Completeness],
) -> History:
    """What we did and saw, and what Kubernetes said of its Pod: the last of it, in all lives of the id, newest last.

    There as long as the sandbox has a record, also while it is being deleted.
    """
    entries = await store.history(sandbox_id)
    if not entries and await store.get(sandbox_id) is None:
        await completeness.check()
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    return History(sandbox_id, [event(entry) for entry in entries], len(entries))
