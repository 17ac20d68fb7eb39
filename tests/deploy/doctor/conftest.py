"""The doctor's checks, run against an emulated cluster and a real Valkey that a test can change."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.doctor.checks import CHECKS
from deploy.doctor.context import open_context
from deploy.doctor.runner import Result, run_checks
from deploy.local.emulator import kubeconfig
from deploy.local.emulator.client import Client
from shared.redis.clock import Clock
from shared.settings import read_settings
from tests.deploy.emulator.conftest import Start, start

__all__ = ["start"]

NAMESPACE = "default"
"""A namespace that the emulated cluster has from the start."""

RunCheck = Callable[..., Awaitable[Result]]


@pytest.fixture
async def kubernetes(start: Start, request: pytest.FixtureRequest) -> Client:
    """An administrator's client of an emulated cluster. A test's indirect parameter is options of the emulator."""
    return await start(**getattr(request, "param", {}))


@pytest.fixture
def environment(kubernetes: Client, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings of a worker, valid and without contradictions. The Valkey saves nothing to disk."""
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
def run_check(environment: dict[str, str], tmp_path: Path) -> RunCheck:
    """Return a function that runs one check by its name.

    `clock` replaces this host's clock, `variables` its environment, and `root` the root of its file system.
    """

    async def run(
        check: str,
        *,
        clock: Clock = time.time,
        variables: Mapping[str, str] | None = None,
        root: Path = tmp_path / "absent",
        **settings: str,
    ) -> Result:
        given = read_settings({**environment, **settings})
        async with open_context(given, clock=clock, environment=variables or {}, root=root) as context:
            (result,) = await run_checks(context, [each for each in CHECKS if each.name == check])
            return result

    return run


async def create(kubernetes: Client, resource: str, name: str, **parts: Any) -> None:
    response = await kubernetes.create(resource, {"metadata": {"name": name, **parts.pop("metadata", {})}, **parts})
    assert response.status == 201, response.body
