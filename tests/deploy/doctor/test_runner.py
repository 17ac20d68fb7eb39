"""Checks do not stand in each other's way, and the report says all of them."""

import asyncio

import msgspec
import pytest

from deploy.doctor.checks import CHECKS
from deploy.doctor.context import Context, open_context
from deploy.doctor.findings import Check, Finding, Verdict, ok
from deploy.doctor.report import as_json, as_table, must_mend
from deploy.doctor.runner import Result, run_checks
from deploy.local.stack import free_port
from shared.settings import read_settings

pytestmark = pytest.mark.anyio


async def well(_: Context) -> Finding:
    return ok("all is well")


async def breaks(_: Context) -> Finding:
    raise ZeroDivisionError("by zero")


async def hangs(_: Context) -> Finding:
    await asyncio.Event().wait()
    raise AssertionError


async def test_each_check_is_for_itself(environment: dict[str, str]):
    """One that breaks says so, one that hangs is given up, and the others go on."""
    checks = [Check("breaks", breaks), Check("hangs", hangs), Check("well", well)]
    async with open_context(read_settings(environment)) as patient:
        results = await run_checks(patient, checks, seconds=0.05)
    assert [(found.check, found.verdict) for found in results] == [
        ("breaks", Verdict.UNKNOWN),
        ("hangs", Verdict.UNKNOWN),
        ("well", Verdict.OK),
    ]
    assert results[0].seen == "the check itself broke: ZeroDivisionError: by zero"
    assert "report it" in results[0].advice
    assert results[1].seen == "not known after 0.05 s"


async def test_they_run_at_once(environment: dict[str, str]):
    """Each waits here for the other."""
    barrier = asyncio.Barrier(2)

    async def meets(_: Context) -> Finding:
        await barrier.wait()
        return ok("met")

    async with open_context(read_settings(environment)) as patient:
        results = await run_checks(patient, [Check("one", meets), Check("two", meets)], seconds=5)
    assert [found.seen for found in results] == ["met", "met"]


async def test_nothing_answers(environment: dict[str, str], away_url: str):
    """The two that do not answer are found; of all that depends on them it is said that it could not be looked at."""
    settings = read_settings(
        {**environment, "REDIS_URL": away_url, "K8S_API_SERVER": f"http://127.0.0.1:{free_port()}"}
    )
    async with open_context(settings) as patient:
        results = {found.check: found.verdict for found in await run_checks(patient, CHECKS)}
    assert {check for check, verdict in results.items() if verdict is Verdict.BROKEN} == {"redis", "cluster"}
    assert {check for check, verdict in results.items() if verdict is Verdict.OK} == {"settings", "paths", "claims"}


def test_each_check_has_a_name_of_its_own():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


RESULTS = [
    Result("redis", Verdict.OK, "there:6379 answers in 0.2 ms", "", 0.001),
    Result("redis persistence", Verdict.BROKEN, "keeps nothing", "Start it with `--appendonly yes`; and so on.", 0.002),
    Result("settings", Verdict.WARNING, "one\nother", "first\nsecond", 0.0),
]


def test_table():
    assert as_table(RESULTS, 60).splitlines() == [
        "ok              redis              there:6379 answers in 0.2 ms",
        "must be mended  redis persistence  keeps nothing",
        "                                   → Start it with `--appendonly yes`; and",
        "                                     so on.",
        "warning         settings           one",
        "                                   other",
        "                                   → first",
        "                                   → second",
        "",
        "1 ok, 1 warning, 1 must be mended",
    ]


def test_json():
    read = msgspec.json.decode(as_json(RESULTS))
    assert read["well"] is False
    assert read["checks"][1] == {
        "check": "redis persistence",
        "verdict": "must_be_mended",
        "seen": "keeps nothing",
        "advice": "Start it with `--appendonly yes`; and so on.",
        "seconds": 0.002,
    }


@pytest.mark.parametrize(
    ("verdict", "mend"),
    [(Verdict.OK, False), (Verdict.WARNING, False), (Verdict.UNKNOWN, False), (Verdict.BROKEN, True)],
)
def test_what_must_be_mended(verdict: Verdict, mend: bool):
    assert must_mend([RESULTS[0], Result("x", verdict, "seen", "", 0)]) is mend
