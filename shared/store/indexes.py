"""The sorted sets over the records: who is in which, and with what score. Pure; `shared.store.store` keeps them so.

| key | id → score |
|---|---|
| `sandboxes:created` | `created_at`, of every record |
| `sandboxes:status:{status}` | `created_at`, of those in that status |
| `sandboxes:user:{user_id}` | `created_at`, of that user's |
| `sandboxes:live:{user_id}` | `created_at`, of that user's that have a Pod or wait for one |
| `sandboxes:deadline` | `due_at`, of those that somebody must look at again |
"""

from typing import NamedTuple

from shared.sandbox.record import Sandbox, Status

CREATED = "sandboxes:created"
DEADLINE = "sandboxes:deadline"
STATUS = "sandboxes:status:"
USER = "sandboxes:user:"
LIVE = "sandboxes:live:"


def index_updates(current: Sandbox | None, wanted: Sandbox | None) -> dict[str, float | str]:
    """Each index that the step touches, with the sandbox's score in it; empty: it leaves that index."""
    before, after = entries(current), entries(wanted)
    scores: dict[str, float | str] = dict.fromkeys(before.keys() - after.keys(), "")
    scores.update({key: score for key, score in after.items() if before.get(key) != score})
    return scores


def entries(record: Sandbox | None) -> dict[str, float]:
    if record is None:
        return {}
    indexes = {
        CREATED: record.created_at,
        STATUS + record.status: record.created_at,
        USER + record.spec.user_id: record.created_at,
    }
    if record.is_active:
        indexes[LIVE + record.spec.user_id] = record.created_at
    if record.due_at is not None:
        indexes[DEADLINE] = record.due_at
    return indexes


class Selection(NamedTuple):
    """Which records a list is of; empty: any. Without a status, those that are being deleted are not among them."""

    status: Status | None = None
    user_id: str | None = None
    thread_id: str | None = None

    @property
    def smallest_index(self) -> str:
        """The index that holds all of the selection, and as little else as may be."""
        if self.user_id is not None:
            return USER + self.user_id
        return CREATED if self.status is None else STATUS + self.status

    def matches(self, record: Sandbox) -> bool:
        return (
            (record.status is self.status if self.status else record.status is not Status.TERMINATING)
            and self.user_id in {None, record.spec.user_id}
            and self.thread_id in {None, record.thread_id}
        )
