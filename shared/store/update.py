"""One atomic step of the store: what it writes, on which condition, and what came of it."""

from collections.abc import Callable
from typing import NamedTuple

from shared.queue.job import Job
from shared.sandbox.record import Sandbox
from shared.store.limits import Limit

ANY_VALUE = "*"
"""A guard's value: whatever it is."""


class Update(NamedTuple):
    """What one atomic step writes: the next record (None removes it), and the jobs it asks for.

    `limits` must leave room for one more. `is_touch`: neither a change that callers see, nor a sign of progress.
    """

    record: Sandbox | None
    jobs: tuple[Job, ...] = ()
    limits: tuple[Limit, ...] = ()
    silent: bool = False


Mutate = Callable[[Sandbox | None], Update | None]
"""Pure: the record as it is → what to write, or None to leave it. Called again when somebody else was faster."""


class Precondition(NamedTuple):
    """The step is refused unless `key` holds `value`, or ANYTHING: how a lease fences off its former holder."""

    key: str
    value: str


class UpdateResult(NamedTuple):
    """The record in force after a change, and whether this call wrote it."""

    record: Sandbox | None
    written: bool
