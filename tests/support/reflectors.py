"""Drives a reflector by hand: one relist, or a batch of watch events, reconciled to the end."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from worker.kubernetes.client import WatchEvent
from worker.reflectors.reflector import Reflector


async def relist(reflector: Reflector[Any]) -> str:
    """Relist once, and return the version to watch from. Raises the first error of a term that is over."""
    with _first_error():
        async with reflector.reconciling():
            return await reflector.relist()


async def take_in(reflector: Reflector[Any], events: Iterable[WatchEvent[Any]]) -> None:
    """Deliver the events of one moment, and wait until they are reconciled."""
    with _first_error():
        async with reflector.reconciling():
            for event in events:
                if event.type != "BOOKMARK":
                    reflector.on_event(event)
            await reflector.settle()


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """Raise the first of a group of errors: the tests expect one kind."""
    try:
        yield
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from errors
