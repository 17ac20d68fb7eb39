"""Refresh of a kubeconfig's token: from an exec plugin, a token file, or a replaced kubeconfig."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import Configuration

from tests.conftest import Clock
from tests.support.kubeconfig import kubeconfig
from tests.support.records import settings_of
from worker.kubernetes.config import TOKEN_SECONDS, TokenRefresher, configuration

pytestmark = pytest.mark.anyio

PLUGIN = """
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "runs").open("a") as runs:
    runs.write("x")
token = (here / "token").read_text()
if token == "broken":
    sys.exit("no token today")
if token == "rubbish":
    print("no credential")
    sys.exit(0)
print(json.dumps({
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": token},
}))
"""


class Kubeconfig:
    """A kubeconfig file in a directory, beside the files that its credentials come from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "config"
        self.token = directory / "token"

    def write(self, user: dict[str, Any]) -> None:
        self.path.write_bytes(kubeconfig(user))

    def plugin_runs(self) -> int:
        return len((self.directory / "runs").read_text())

    async def load(self, clock: Clock) -> Configuration:
        """Load the configuration as the worker does, but with the test's clock."""
        loaded = await configuration(settings_of(KUBECONFIG_PATH=str(self.path)))
        assert isinstance(loaded.refresh_api_key_hook, TokenRefresher)
        loaded.refresh_api_key_hook = TokenRefresher(self.path, clock)
        return loaded


async def bearer(loaded: Configuration) -> str:
    """Return the Authorization header of the next request."""
    value: str = (await loaded.auth_settings())["BearerToken"]["value"]
    return value


@pytest.fixture
def with_plugin(tmp_path: Path) -> Kubeconfig:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    kubeconfig = Kubeconfig(tmp_path)
    kubeconfig.token.write_text("first")
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(plugin)]}
    kubeconfig.write({"exec": {**command, "interactiveMode": "Never"}})
    return kubeconfig


@pytest.fixture
def with_file(tmp_path: Path) -> Kubeconfig:
    kubeconfig = Kubeconfig(tmp_path)
    kubeconfig.token.write_text("first")
    kubeconfig.write({"tokenFile": str(kubeconfig.token)})
    return kubeconfig


async def test_plugin_runs_once_a_minute_and_its_new_token_is_used(with_plugin: Kubeconfig, clock: Clock):
    loaded = await with_plugin.load(clock)
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS - 0.1)
    assert [await bearer(loaded) for _ in range(3)] == ["Bearer first"] * 3
    assert with_plugin.plugin_runs() == 1
    clock.advance(0.1)
    assert [await bearer(loaded) for _ in range(3)] == ["Bearer second"] * 3
    assert with_plugin.plugin_runs() == 2
    with_plugin.token.write_text("third")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer third"
    assert with_plugin.plugin_runs() == 3


async def test_concurrent_requests_run_plugin_once(with_plugin: Kubeconfig, clock: Clock):
    loaded = await with_plugin.load(clock)
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert set(await asyncio.gather(*(bearer(loaded) for _ in range(20)))) <= {"Bearer first", "Bearer second"}
    assert with_plugin.plugin_runs() == 2
    assert await bearer(loaded) == "Bearer second"


@pytest.mark.parametrize("token", ["broken", "rubbish"])
async def test_failing_plugin_keeps_token_and_runs_again_after_a_minute(
    with_plugin: Kubeconfig, clock: Clock, token: str
):
    loaded = await with_plugin.load(clock)
    with_plugin.token.write_text(token)
    clock.advance(TOKEN_SECONDS)
    assert [await bearer(loaded) for _ in range(2)] == ["Bearer first"] * 2
    assert with_plugin.plugin_runs() == 2
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer second"


async def test_missing_plugin_keeps_token(with_plugin: Kubeconfig, clock: Clock):
    loaded = await with_plugin.load(clock)
    with_plugin.write({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/plugin"}})
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer first"


async def test_new_content_of_token_file_is_used_after_a_minute(with_file: Kubeconfig, clock: Clock):
    loaded = await with_file.load(clock)
    with_file.token.write_text("second")
    clock.advance(TOKEN_SECONDS - 1)
    assert await bearer(loaded) == "Bearer first"
    clock.advance(1)
    assert await bearer(loaded) == "Bearer second"


async def test_missing_token_file_keeps_token_until_it_returns(with_file: Kubeconfig, clock: Clock):
    loaded = await with_file.load(clock)
    with_file.token.unlink()
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer first"
    with_file.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer second"


async def test_token_of_replaced_kubeconfig_is_used_after_a_minute(tmp_path: Path, clock: Clock):
    """While the file is missing or incomplete, the old token stays."""
    kubeconfig = Kubeconfig(tmp_path)
    kubeconfig.write({"token": "first"})
    loaded = await kubeconfig.load(clock)
    kubeconfig.path.write_text("{")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer first"
    kubeconfig.path.unlink()
    clock.advance(TOKEN_SECONDS)
    assert await bearer(loaded) == "Bearer first"
    kubeconfig.write({"token": "second"})
    clock.advance(TOKEN_SECONDS - 1)
    assert await bearer(loaded) == "Bearer first"
    clock.advance(1)
    assert await bearer(loaded) == "Bearer second"
