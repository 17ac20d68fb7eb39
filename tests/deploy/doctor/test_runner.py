"""The runner isolates the checks from each other, and the report shows all results."""

import asyncio

import msgspec
import pytest

from deploy.doctor.checks import CHECKS
from deploy.doctor.context import Context, open_context
from deploy.doctor.findings import Check, Finding, Verdict, ok
from deploy.doctor.report import as_json, as_table, has_failed
from deploy.doctor.runner import Result, run_checks
from deploy.local.stack import free_port
from shared.settings import read_settings

pytestmark = pytest.mark.anyio


async def succeed(_: Context) -> Finding:
    return ok("no problem")


async def divide(_: Context) -> Finding:
    raise ZeroDivisionError("by zero")


async def hang(_: Context) -> Finding:
    await asyncio.Event().wait()
    raise AssertionError


async def test_check_that_raises_or_hangs_is_unknown_and_others_finish(environment: dict[str, str]):
    checks = [Check("divide", divide), Check("hang", hang), Check("succeed", succeed)]
    async with open_context(read_settings(environment)) as context:
        results = await run_checks(context, checks, seconds=0.05)
    assert [(result.check, result.verdict) for result in results] == [
        ("divide", Verdict.UNKNOWN),
        ("hang", Verdict.UNKNOWN),
        ("succeed", Verdict.OK),
    ]
    assert results[0].detail == "the check itself raised ZeroDivisionError: by zero"
    assert "report it" in results[0].advice
    assert results[1].detail == "no result within 0.05 s"


async def test_checks_run_at_the_same_time(environment: dict[str, str]):
    """Each of the two checks waits for the other."""
    barrier = asyncio.Barrier(2)

    async def meet(_: Context) -> Finding:
        await barrier.wait()
        return ok("met")

    async with open_context(read_settings(environment)) as context:
        results = await run_checks(context, [Check("one", meet), Check("two", meet)], seconds=5)
    assert [result.detail for result in results] == ["met", "met"]


async def test_servers_that_do_not_answer_fail_once(environment: dict[str, str], away_url: str):
    """The checks `redis` and `cluster` fail; all checks that depend on them are unknown."""
    settings = read_settings(
        {**environment, "REDIS_URL": away_url, "K8S_API_SERVER": f"http://127.0.0.1:{free_port()}"}
    )
    async with open_context(settings) as context:
        results = {result.check: result.verdict for result in await run_checks(context, CHECKS)}
    assert {check for check, verdict in results.items() if verdict is Verdict.FAILED} == {"redis", "cluster"}
    assert {check for check, verdict in results.items() if verdict is Verdict.OK} == {
        "settings",
        "paths",
        "volume claims",
    }


def test_check_names_are_unique():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


RESULTS = [
    Result("redis", Verdict.OK, "there:6379 answers in 0.2 ms", "", 0.001),
    Result("redis persistence", Verdict.FAILED, "saves nothing", "Start it with `--appendonly yes`; and so on.", 0.002),
    Result("settings", Verdict.WARNING, "one\nother", "first\nsecond", 0.0),
]


def test_table_shows_verdict_check_detail_and_advice():
    assert as_table(RESULTS, 60).splitlines() == [
        "ok       redis              there:6379 answers in 0.2 ms",
        "failed   redis persistence  saves nothing",
        "                            → Start it with `--appendonly yes`; and",
        "                              so on.",
        "warning  settings           one",
        "                            other",
        "                            → first",
        "                            → second",
        "",
        "1 ok, 1 warning, 1 failed",
    ]


def test_json_holds_each_result():
    decoded = msgspec.json.decode(as_json(RESULTS))
    assert decoded["ok"] is False
    assert decoded["checks"][1] == {
        "check": "redis persistence",
        "verdict": "failed",
        "detail": "saves nothing",
        "advice": "Start it with `--appendonly yes`; and so on.",
        "seconds": 0.002,
    }


@pytest.mark.parametrize(
    ("verdict", "failed"),
    [(Verdict.OK, False), (Verdict.WARNING, False), (Verdict.UNKNOWN, False), (Verdict.FAILED, True)],
)
def test_only_a_failed_check_fails_the_doctor(verdict: Verdict, failed: bool):
    assert has_failed([RESULTS[0], Result("x", verdict, "detail", "", 0)]) is failed
