"""What a check says: a verdict, what was seen, and what to do about it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from deploy.doctor.context import Context


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    BROKEN = "must_be_mended"
    UNKNOWN = "could_not_be_checked"


class Finding(msgspec.Struct, frozen=True):
    """`advice` is empty when there is nothing to do."""

    verdict: Verdict
    seen: str
    advice: str = ""


class Check(NamedTuple):
    """`look` may raise what its adapters raise: `deploy.doctor.runner` makes a finding of it."""

    name: str
    look: Callable[[Context], Awaitable[Finding]]


def ok(seen: str) -> Finding:
    return Finding(Verdict.OK, seen)


def warning(seen: str, advice: str) -> Finding:
    return Finding(Verdict.WARNING, seen, advice)


def broken(seen: str, advice: str) -> Finding:
    return Finding(Verdict.BROKEN, seen, advice)


def unknown(seen: str, advice: str = "") -> Finding:
    return Finding(Verdict.UNKNOWN, seen, advice)
