"""Whether a sandbox is there, as callers mean it: one that is being deleted is not, whatever its Pod does."""

from api.state.app_state import AppState
from shared.errors import SandboxExpired, SandboxNotFound
from shared.sandbox.record import Sandbox, Status


async def record_or_not_found(sandbox_id: str, record: Sandbox | None, state: AppState) -> Sandbox:
    """`record` if it is that of a sandbox that is there.

    Raises:
        SandboxNotFound: it is not, or is being deleted.
        SandboxExpired: and that because its time was over, lately.
        RecordsMissing: Redis was emptied, so that nothing is known.
        StoreUnavailable: nor when Redis does not answer.
    """
    if record is None:
        await state.sync_gate.require()
        ended = await state.store.tombstone(sandbox_id)
        if ended is not None and ended.by:
            raise SandboxExpired(sandbox_id, ended.at, ended.by)
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    if record.status is not Status.TERMINATING:
        return record
    going = Status.TERMINATING.value
    if record.expired_at is not None:
        raise SandboxExpired(sandbox_id, record.expired_at, record.expired_by, status=going)
    raise SandboxNotFound(f"Sandbox {sandbox_id} is being deleted.", status=going)
