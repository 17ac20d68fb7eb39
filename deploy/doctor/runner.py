"""All checks at once, each for itself: one that takes too long or breaks says so, and the others go on."""

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
"""For one check: longer than one call to Kubernetes may take by default, with another before it."""
_FORBIDDEN = 403


class Result(msgspec.Struct, frozen=True):
    """What one check has found, and how many seconds it took."""

    check: str
    verdict: Verdict
    seen: str
    advice: str
    seconds: float


async def run_checks(patient: Context, checks: Iterable[Check], *, seconds: float = SECONDS) -> list[Result]:
    """In the order of `checks`; none takes more than `seconds`, and neither do all of them."""
    return list(await asyncio.gather(*(_examine(patient, check, seconds) for check in checks)))


def result(check: str, finding: Finding, seconds: float = 0.0) -> Result:
    return Result(check, finding.verdict, finding.seen, finding.advice, round(seconds, 3))


async def _examine(patient: Context, check: Check, seconds: float) -> Result:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            finding = await check.look(patient)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are worth having
        finding = _not_found(error, seconds)
    return result(check.name, finding, time.perf_counter() - began)


def _not_found(error: Exception, seconds: float) -> Finding:
    """What the check would have needed did not answer; that it does not is another check's finding."""
    match error:
        case KubernetesError():
            return _not_told(error)
        case InvalidSettings():
            return unknown(error.detail, "See `cluster`.")
        case TimeoutError():
            return unknown(f"not known after {seconds:g} s")
        case StoreUnavailable() | exceptions.ConnectionError() | exceptions.TimeoutError() | OSError():
            return unknown("Redis does not answer us", "See `redis`.")
        case exceptions.RedisError():
            return unknown(f"Redis answers: {error}", "Let the user in REDIS_URL look, or ask who runs it.")
    return unknown(
        f"the check itself broke: {type(error).__name__}: {error}", "This is a mistake in the doctor: please report it."
    )


def _not_told(error: KubernetesError) -> Finding:
    if error.http_status == NO_ANSWER:
        return unknown("the cluster does not answer", "See `cluster`.")
    if error.http_status == _FORBIDDEN:
        return unknown(f"may not look: {error.message}", "Run the doctor with a kubeconfig that may, once.")
    return unknown(f"the cluster answers: {error}", "See `cluster`.")
