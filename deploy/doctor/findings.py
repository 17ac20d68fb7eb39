"""The result of a check: a verdict, a detail, and what to do."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from deploy.doctor.context import Context


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """`advice` is empty if there is nothing to do."""

    verdict: Verdict
    detail: str
    advice: str = ""


class Check(NamedTuple):
    """`run` may raise errors of Redis and the cluster; `deploy.doctor.runner` turns them into findings."""

    name: str
    run: Callable[[Context], Awaitable[Finding]]


def ok(detail: str) -> Finding:
    return Finding(Verdict.OK, detail)


def warning(detail: str, advice: str) -> Finding:
    return Finding(Verdict.WARNING, detail, advice)


def failed(detail: str, advice: str) -> Finding:
    return Finding(Verdict.FAILED, detail, advice)


def unknown(detail: str, advice: str = "") -> Finding:
    return Finding(Verdict.UNKNOWN, detail, advice)
