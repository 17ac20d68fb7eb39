"""Random walks over the actions of clients and over faults: at rest, the system always agrees with the model."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.system.conftest import Start
from tests.system.walk.faults import FAULTS, FLUSH, Fault, Faults
from tests.system.walk.model import Model

pytestmark = pytest.mark.anyio

IDS = [f"walk-{number}" for number in range(6)]
"""Sandbox ids. Few, so that each comes back."""
BOUNDED = settings(
    max_examples=6,
    stateful_step_count=3,
    derandomize=True,  # a walk that fails in CI fails everywhere; `make soak` takes other walks
    database=None,
    deadline=None,
    phases=[Phase.generate],  # times differ from run to run, so a walk cannot be shrunk
    suppress_health_check=[HealthCheck.too_slow],  # real processes take each step
)
"""Limits the walks to the time that CI has. Each step of Hypothesis is a whole burst of steps."""


class Step(NamedTuple):
    """An action of a client, or a fault. The Random chooses the worker, the API process or the Pod."""

    name: str
    take: Callable[[Model, Faults, Random], Awaitable[Any]]

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Course:
    """The system that all walks share. After the first `error` no step is taken, so the error stays visible."""

    def __init__(self, model: Model, faults: Faults) -> None:
        self.model = model
        self.faults = faults
        self.step_names: list[str] = []
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        if self.error is None:
            self.step_names.clear()

    def take(self, steps: Iterable[Step], seed: int) -> None:
        """Run the steps on the system's event loop. Hypothesis calls this method in a thread."""
        if self.error is None:
            self.error = asyncio.run_coroutine_threadsafe(self._take(steps, Random(seed)), self._loop).exception()

    async def _take(self, steps: Iterable[Step], random: Random) -> None:
        for step in steps:
            self.step_names.append(step.name)
            await step.take(self.model, self.faults, random)


def _create(sandbox_id: str) -> Step:
    return Step(f"create {sandbox_id}", lambda model, _, __: model.create(sandbox_id))


def _delete(sandbox_id: str) -> Step:
    return Step(f"delete {sandbox_id}", lambda model, _, __: model.delete(sandbox_id))


def _keep_alive(sandbox_id: str) -> Step:
    return Step(f"keep {sandbox_id} alive", lambda model, _, __: model.keep_alive(sandbox_id))


def _begin(fault: Fault) -> Step:
    """Return the step that starts a fault. A fault that lasts ends at the next rest at the latest."""
    return Step(fault.name, lambda _, faults, random: fault.begin(faults, random))


async def _rest(model: Model, faults: Faults, random: Random) -> None:
    await faults.end_all()
    lines = await model.rest(random)
    assert not lines, "\n".join(lines[:50])


async def _empty(model: Model, _: Faults, random: Random) -> None:
    lines = await model.empty(random)
    assert not lines, "\n".join(lines[:50])


STEPS = (*map(_create, IDS), *map(_delete, IDS), *map(_keep_alive, IDS[:2]), *map(_begin, FAULTS))
REST, EMPTY, FLUSH_STEP = Step("rest", _rest), Step("empty", _empty), _begin(FLUSH)


class Walk(RuleBasedStateMachine):
    """A walk that starts and ends with an empty system."""

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
        """Run steps between two rests. Redis can be emptied only at the start, while all is at rest."""
        self.course.take([*([FLUSH_STEP] if is_flushed else []), *steps, REST], seed)

    def teardown(self) -> None:
        self.course.take([EMPTY], 0)


def _run_walks(course: Course) -> None:
    factory: Any = partial(Walk, course)  # annotated as a class, but any function that returns a machine will do
    run_state_machine_as_test(factory, settings=BOUNDED)


async def test_system_after_a_random_walk_agrees_with_the_model_at_rest(start: Start):
    """Each expected sandbox has its Pod, its Service and a URL that answers, or reports that its Pod was deleted."""
    system = await start(workers=2, apis=2)
    async with Model(system, IDS) as model:
        course = Course(model, Faults(system, model))
        try:
            await asyncio.to_thread(_run_walks, course)
        finally:
            await course.faults.end_all()
        if course.error is not None:
            print("the last walk:", *course.step_names, sep="\n")  # noqa: T201 - pytest shows it with the failure
            raise course.error
