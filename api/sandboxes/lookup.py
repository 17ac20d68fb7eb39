"""Lookup of a sandbox as callers mean it: a sandbox that is being deleted does not exist, whatever its Pod does."""

from api.state.app_state import AppState
from shared.errors import SandboxExpired, SandboxNotFound
from shared.sandbox.record import Sandbox, Status


async def record_or_not_found(sandbox_id: str, record: Sandbox | None, state: AppState) -> Sandbox:
    """Return `record` if callers may see the sandbox.

    Raises:
        SandboxNotFound: the sandbox does not exist, or is being deleted.
        SandboxExpired: the sandbox expired in the last ten minutes.
        NotSynced: Redis lost its data, so a missing record proves nothing.
        StoreUnavailable: Redis does not answer.
    """
    if record is None:
        await state.sync_gate.require()
        tombstone = await state.store.tombstone(sandbox_id)
        if tombstone is not None and tombstone.by:
            raise SandboxExpired(sandbox_id, tombstone.at, tombstone.by)
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    if record.status is not Status.TERMINATING:
        return record
    status = Status.TERMINATING.value
    if record.expired_at is not None:
        raise SandboxExpired(sandbox_id, record.expired_at, record.expired_by, status=status)
    raise SandboxNotFound(f"Sandbox {sandbox_id} is being deleted.", status=status)
