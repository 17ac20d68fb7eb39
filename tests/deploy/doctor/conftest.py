"""A doctor, with an emulated Kubernetes and a Valkey to look at; what a test changes of them is then found."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.doctor.checks import CHECKS
from deploy.doctor.context import open_context
from deploy.doctor.findings import Verdict
from deploy.doctor.runner import Result, run_checks
from deploy.local.emulator import kubeconfig
from deploy.local.emulator.client import Client
from shared.redis.clock import Clock
from shared.settings import read_settings
from tests.deploy.emulator.conftest import Start, start

__all__ = ["start"]

NAMESPACE = "default"
"""One that the emulated cluster has from the start."""

Look = Callable[..., Awaitable[Result]]


@pytest.fixture
async def kubernetes(start: Start, request: pytest.FixtureRequest) -> Client:
    """This test's alone, as its administrator sees it. A test's parameter is options of the emulator."""
    return await start(**getattr(request, "param", {}))


@pytest.fixture
def environment(kubernetes: Client, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    """Of a worker that is well, but for the Valkey, which keeps nothing."""
    path = tmp_path / "kubeconfig"
    kubeconfig.write(path, server(kubernetes), token(kubernetes))
    return {
        "REDIS_URL": valkey_url,
        "KUBECONFIG_PATH": str(path),
        "K8S_NAMESPACE": NAMESPACE,
        "NODE_HOST": "127.0.0.1",
        "SANDBOX_IMAGE": "sandbox:1",
        "THREADS_HOST_PATH": "/srv/threads",
        "PROVISIONER_API_KEY": "a-key",
    }


def server(kubernetes: Client) -> str:
    return str(kubernetes.http.base_url).rstrip("/")


def token(kubernetes: Client) -> str:
    return kubernetes.http.headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def look(environment: dict[str, str], tmp_path: Path) -> Look:
    """What one check finds: with these settings, on this host's clock, in this surrounding; `root` is its `/`."""

    async def looked(
        check: str,
        *,
        clock: Clock = time.time,
        around: Mapping[str, str] | None = None,
        root: Path = tmp_path / "absent",
        **settings: str,
    ) -> Result:
        given = read_settings({**environment, **settings})
        async with open_context(given, clock=clock, environment=around or {}, root=root) as patient:
            (found,) = await run_checks(patient, [each for each in CHECKS if each.name == check])
            return found

    return looked


def said(found: Result) -> tuple[Verdict, str]:
    """With what to do, if anything."""
    return found.verdict, f"{found.seen} → {found.advice}" if found.advice else found.seen


async def made(kubernetes: Client, resource: str, name: str, **parts: Any) -> None:
    answer = await kubernetes.create(resource, {"metadata": {"name": name, **parts.pop("metadata", {})}, **parts})
    assert answer.status == 201, answer.body
