"""The interface of the tasks that a leader runs during its term."""

from collections.abc import Callable, Sequence
from typing import Protocol

from shared.store.update import Precondition


class LeaderTask(Protocol):
    """Runs until cancelled. Every write of it has the lease as its precondition."""

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            PreconditionFailed: another worker leads by now.
            StoreUnavailable: Redis does not answer.
        """


LeaderTasks = Callable[[Precondition], Sequence[LeaderTask]]
"""Makes the tasks of one term. The argument is the lease, as a precondition of writes."""
