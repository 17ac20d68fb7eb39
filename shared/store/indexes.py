"""The sorted sets over the records: which record is in which set, with what score. Pure; the store keeps them.

| key | members, with `created_at` as the score unless noted |
|---|---|
| `sandboxes:created` | every record |
| `sandboxes:status:{status}` | the records in that status |
| `sandboxes:user:{user_id}` | that user's records |
| `sandboxes:live:{user_id}` | that user's active records: with a Pod, or waiting for one |
| `sandboxes:deadline` | the records that the sweep must look at; the score is `due_at` |
"""

from typing import NamedTuple

from shared.sandbox.record import Sandbox, Status
from shared.store import keys


def index_updates(before: Sandbox | None, after: Sandbox | None) -> dict[str, float | None]:
    """Return the new score in each index that changes; None removes the record from that index."""
    old, new = entries(before), entries(after)
    scores: dict[str, float | None] = dict.fromkeys(old.keys() - new.keys())
    scores.update({key: score for key, score in new.items() if old.get(key) != score})
    return scores


def entries(record: Sandbox | None) -> dict[str, float]:
    """Return the record's score in each index that holds it."""
    if record is None:
        return {}
    scores = {
        keys.CREATED: record.created_at,
        keys.STATUS + record.status: record.created_at,
        keys.USER + record.spec.user_id: record.created_at,
    }
    if record.is_active:
        scores[keys.LIVE + record.spec.user_id] = record.created_at
    if record.due_at is not None:
        scores[keys.DEADLINE] = record.due_at
    return scores


class Selection(NamedTuple):
    """The records that a list asks for; None matches any. Without a status, Terminating records do not match."""

    status: Status | None = None
    user_id: str | None = None
    thread_id: str | None = None

    @property
    def smallest_index(self) -> str:
        """The smallest index that holds all records of the selection."""
        if self.user_id is not None:
            return keys.USER + self.user_id
        return keys.CREATED if self.status is None else keys.STATUS + self.status

    def matches(self, record: Sandbox) -> bool:
        return (
            (record.status is self.status if self.status else record.status is not Status.TERMINATING)
            and self.user_id in {None, record.spec.user_id}
            and self.thread_id in {None, record.thread_id}
        )
