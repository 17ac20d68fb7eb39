"""Atomic updates of a record: what the store writes, under which precondition, and the result."""

from collections.abc import Callable
from typing import NamedTuple

from shared.queue.job import Job
from shared.sandbox.record import Sandbox
from shared.store.limits import Limit

SYNCED = "*"
"""Value of a precondition whose key is a synced mark, which must have been written on this Redis server."""


class Update(NamedTuple):
    """The next record, and the jobs that the same step enqueues. `record` None deletes the record.

    `limits` must all leave room for one more sandbox. `silent` leaves `revision` and `updated_at` as they are: callers
    see no change, and the sweep sees no progress.
    """

    record: Sandbox | None
    jobs: tuple[Job, ...] = ()
    limits: tuple[Limit, ...] = ()
    silent: bool = False


Mutate = Callable[[Sandbox], Sandbox | Update | None]
"""Pure: the record → the next record or an Update; None to leave it. The store calls it again after a lost race."""

MutateOrCreate = Callable[[Sandbox | None], Sandbox | Update | None]
"""Like Mutate, but called with None if there is no record."""


class Precondition(NamedTuple):
    """The update is refused unless Redis' `key` holds `value`, or a current synced mark if that is SYNCED.

    A lease is a precondition: a worker that lost its lease while it was frozen writes nothing.
    """

    key: str
    value: str


class UpdateResult(NamedTuple):
    """The record in force after an update, and whether this call wrote it."""

    record: Sandbox | None
    written: bool
