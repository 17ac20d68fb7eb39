"""Clocks of this host that are set wrong."""

import time

import pytest

from deploy.doctor.findings import Verdict
from tests.deploy.doctor.conftest import RunCheck

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("check", "ahead", "verdict", "detail"),
    [
        ("redis clock", 0, Verdict.OK, "within one second of Redis"),
        ("redis clock", 100, Verdict.WARNING, "100 s ahead of Redis"),
        ("redis clock", -30, Verdict.WARNING, "30 s behind Redis"),
        ("redis clock", -100, Verdict.WARNING, "100 s behind Redis"),
        ("cluster clock", 0, Verdict.OK, "the API server"),
        ("cluster clock", -100, Verdict.WARNING, "s behind the API server"),
        ("cluster clock", 100, Verdict.WARNING, "s ahead of the API server"),
    ],
)
async def test_clock_difference_decides_the_verdict(run_check: RunCheck, check, ahead, verdict, detail):
    result = await run_check(check, clock=lambda: time.time() + ahead)
    assert result.verdict is verdict
    assert detail in result.detail
    assert ("NTP" in result.advice) is (verdict is not Verdict.OK)
