"""Runs all checks at the same time. A check that hangs or raises does not stop the others."""

import asyncio
import time
from collections.abc import Iterable

import msgspec
from redis import exceptions

from deploy.doctor.context import Context
from deploy.doctor.findings import Check, Finding, Verdict, unknown
from shared.errors import InvalidSettings, StoreUnavailable
from worker.kubernetes.errors import NO_ANSWER, KubernetesError

SECONDS = 15.0
"""Time limit of one check. A call to Kubernetes may take ten seconds by default, and another call may precede it."""
_FORBIDDEN = 403


class Result(msgspec.Struct, frozen=True):
    """The finding of one check. `seconds` is the time that the check took."""

    check: str
    verdict: Verdict
    detail: str
    advice: str
    seconds: float


async def run_checks(context: Context, checks: Iterable[Check], *, seconds: float = SECONDS) -> list[Result]:
    """Return the results in the order of `checks`, after at most `seconds`."""
    return list(await asyncio.gather(*(_run(context, check, seconds) for check in checks)))


def result(check: str, finding: Finding, seconds: float = 0.0) -> Result:
    return Result(check, finding.verdict, finding.detail, finding.advice, round(seconds, 3))


async def _run(context: Context, check: Check, seconds: float) -> Result:
    started_at = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            finding = await check.run(context)
    except Exception as error:  # noqa: BLE001 - the other results are useful whatever this check raises
        finding = _explain(error, seconds)
    return result(check.name, finding, time.perf_counter() - started_at)


def _explain(error: Exception, seconds: float) -> Finding:
    """Return `unknown`, because another check reports the server that does not answer."""
    match error:
        case KubernetesError():
            return _explain_cluster(error)
        case InvalidSettings():
            return unknown(error.detail, "See the check `cluster`.")
        case TimeoutError():
            return unknown(f"no result within {seconds:g} s")
        case StoreUnavailable() | exceptions.ConnectionError() | exceptions.TimeoutError() | OSError():
            return unknown("Redis does not answer", "See the check `redis`.")
        case exceptions.RedisError():
            return unknown(
                f"Redis refuses the command: {error}",
                "Grant it to the user in REDIS_URL, or ask the operator of that Redis.",
            )
    return unknown(
        f"the check itself raised {type(error).__name__}: {error}", "This is a bug of the doctor. Please report it."
    )


def _explain_cluster(error: KubernetesError) -> Finding:
    if error.http_status == NO_ANSWER:
        return unknown("the cluster does not answer", "See the check `cluster`.")
    if error.http_status == _FORBIDDEN:
        return unknown(
            f"these credentials lack the permission to read this: {error.message}",
            "Run the doctor once with a kubeconfig that has the permission.",
        )
    return unknown(f"the cluster answers {error}", "See the check `cluster`.")
