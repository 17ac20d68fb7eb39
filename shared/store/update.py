"""One atomic step of the store: what it writes, on which condition, and what came of it."""

from collections.abc import Callable
from typing import NamedTuple

from shared.queue.job import Job
from shared.sandbox.record import Sandbox
from shared.store.limits import Limit

ANYTHING = "*"
"""A guard's value: whatever it is."""


class Change(NamedTuple):
    """What one atomic step writes: the next record (None removes it), and the jobs it asks for.

    `limits` must leave room for one more. `is_touch`: neither a change that callers see, nor a sign of progress.
    """

    record: Sandbox | None
    jobs: tuple[Job, ...] = ()
    limits: tuple[Limit, ...] = ()
    is_touch: bool = False


Move = Callable[[Sandbox | None], Change | None]
"""Pure: the record as it is → what to write, or None to leave it. Called again when somebody else was faster."""


class Guard(NamedTuple):
    """The step is refused unless `key` holds `value`, or ANYTHING: how a lease fences off its former holder."""

    key: str
    value: str


class Outcome(NamedTuple):
    """The record in force after a change, and whether this call wrote it."""

    record: Sandbox | None
    written: bool
