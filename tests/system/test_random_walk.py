"""A random walk over all that clients do and all that goes wrong: whatever came before, at rest the model is right."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.system.walk.faults import FAULTS, FLUSH, Fault, Faults
from tests.system.walk.model import Model

pytestmark = pytest.mark.anyio

IDS = [f"walk-{number}" for number in range(6)]
"""So few that each comes back."""
BOUNDED = settings(
    max_examples=6,
    stateful_step_count=3,
    derandomize=True,  # a walk that fails in CI fails here too; `make soak` takes others
    database=None,
    deadline=None,
    phases=[Phase.generate],  # a walk is never twice the same to the millisecond: there is no shrinking it
    suppress_health_check=[HealthCheck.too_slow],  # each step is taken by real processes
)
"""To what CI has time for. A step of hypothesis' is a whole burst of ours."""


class Step(NamedTuple):
    """What it chooses by itself (which worker, which Pod) comes from the Random it is given."""

    name: str
    take: Callable[[Model, Faults, Random], Awaitable[Any]]

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Course:
    """One system, which all walks share. After the first `error` no step is taken: what failed, stands as it is."""

    def __init__(self, model: Model, faults: Faults) -> None:
        self.model = model
        self.faults = faults
        self.taken: list[str] = []
        self._loop = asyncio.get_running_loop()
        self.error: BaseException | None = None

    def begin(self) -> None:
        if self.error is None:
            self.taken.clear()

    def take(self, steps: Iterable[Step], seed: int) -> None:
        """Called in hypothesis' thread; the steps are taken on the system's loop."""
        if self.error is None:
            self.error = asyncio.run_coroutine_threadsafe(self._take(steps, Random(seed)), self._loop).exception()

    async def _take(self, steps: Iterable[Step], random: Random) -> None:
        for step in steps:
            self.taken.append(step.name)
            await step.take(self.model, self.faults, random)


def _create(sandbox_id: str) -> Step:
    return Step(f"create {sandbox_id}", lambda model, _, __: model.create(sandbox_id))


def _delete(sandbox_id: str) -> Step:
    return Step(f"delete {sandbox_id}", lambda model, _, __: model.delete(sandbox_id))


def _keep_alive(sandbox_id: str) -> Step:
    return Step(f"keep {sandbox_id} alive", lambda model, _, __: model.keep_alive(sandbox_id))


def _strike(fault: Fault) -> Step:
    """What lasts goes on till the next rest, or till it ends by itself."""
    return Step(fault.name, lambda _, faults, random: fault.begin(faults, random))


async def _rest(model: Model, faults: Faults, random: Random) -> None:
    await faults.end()
    found = await model.rest(random)
    assert not found, "\n".join(found[:50])


async def _empty(model: Model, _: Faults, random: Random) -> None:
    found = await model.empty(random)
    assert not found, "\n".join(found[:50])


STEPS = (*map(_create, IDS), *map(_delete, IDS), *map(_keep_alive, IDS[:2]), *map(_strike, FAULTS))
REST, EMPTY, FLUSHED = Step("rest", _rest), Step("empty", _empty), _strike(FLUSH)


class Walk(RuleBasedStateMachine):
    """From an empty system to an empty system."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self.course = course

    @initialize(count=st.integers(0, len(IDS)))
    def begin(self, count: int) -> None:
        self.course.begin()
        self.course.take([*map(_create, IDS[:count]), REST], 0)

    @rule(
        is_flushed=st.booleans(),
        steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=16),
        seed=st.integers(0, 99),
    )
    def burst(self, is_flushed: bool, steps: list[Step], seed: int) -> None:
        """Begins at rest, the only time at which Redis may be emptied, and ends at rest."""
        self.course.take([*([FLUSHED] if is_flushed else []), *steps, REST], seed)

    def teardown(self) -> None:
        self.course.take([EMPTY], 0)


async def test_at_rest_the_model_is_right_whatever_happened_before(start):
    """Each wanted sandbox has its Pod, its Service and an answering URL, or says truly that its Pod was taken away."""
    system = await start(workers=2, apis=2)
    async with Model(system, IDS) as model:
        course = Course(model, Faults(system, model))
        try:
            await asyncio.to_thread(run_state_machine_as_test, partial(Walk, course), settings=BOUNDED)
        finally:
            await course.faults.end()
        if course.error is not None:
            print("the last walk:", *course.taken, sep="\n")  # noqa: T201 - pytest shows it with the failure
            raise course.error
