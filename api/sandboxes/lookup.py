"""Whether a sandbox is there, as callers mean it: one that is being deleted is not, whatever its Pod does."""

from api.state.app_state import Parts
from shared.errors import SandboxExpired, SandboxNotFound
from shared.sandbox.record import Sandbox, Status


async def there(sandbox_id: str, record: Sandbox | None, served: Parts) -> Sandbox:
    """`record` if it is that of a sandbox that is there.

    Raises:
        SandboxNotFound: it is not, or is being deleted.
        SandboxExpired: and that because its time was over, lately.
        RecordsMissing: Redis was emptied, so that nothing is known.
        StoreUnavailable: nor when Redis does not answer.
    """
    if record is None:
        await served.completeness.check()
        ended = await served.store.tombstone(sandbox_id)
        if ended is not None and ended.by:
            raise SandboxExpired(sandbox_id, ended.at, ended.by)
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    if record.status is not Status.TERMINATING:
        return record
    going = Status.TERMINATING.value
    if record.ended_at is not None:
        raise SandboxExpired(sandbox_id, record.ended_at, record.ended_by, status=going)
    raise SandboxNotFound(f"Sandbox {sandbox_id} is being deleted.", status=going)
