"""Clocks that differ: this host's is set wrong."""

import time

import pytest

from deploy.doctor.findings import Verdict
from tests.deploy.doctor.conftest import Look

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("check", "ahead", "verdict", "seen"),
    [
        ("redis clock", 0, Verdict.OK, "within a second of Redis'"),
        ("redis clock", 100, Verdict.WARNING, "100 s ahead of Redis'"),
        ("redis clock", -30, Verdict.WARNING, "30 s behind Redis'"),
        ("redis clock", -100, Verdict.BROKEN, "100 s behind Redis': a worker here takes each job that much late"),
        ("cluster clock", 0, Verdict.OK, "the API server's"),
        ("cluster clock", -100, Verdict.WARNING, "s behind the API server's"),
        ("cluster clock", 100, Verdict.WARNING, "s ahead of the API server's"),
    ],
)
async def test_clock(look: Look, check, ahead, verdict, seen):
    found = await look(check, clock=lambda: time.time() + ahead)
    assert found.verdict is verdict
    assert seen in found.seen
    assert ("NTP" in found.advice) is (verdict is not Verdict.OK)
