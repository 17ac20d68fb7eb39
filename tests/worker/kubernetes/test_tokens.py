"""A kubeconfig's token while it changes: from an exec plugin, in a file, or in a kubeconfig that is replaced."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes_asyncio.client import Configuration

from tests.conftest import Clock
from tests.support.records import settings_of
from worker.kubernetes.config import TOKEN_SECONDS, TokenRefresher, configuration

pytestmark = pytest.mark.anyio

PLUGIN = """
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write("x")
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
    """A kubeconfig file in a directory, with what its user is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "config"
        self.token = directory / "token"

    def write(self, user: dict[str, Any]) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "https://localhost:6443"}}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        self.path.write_bytes(msgspec.json.encode(config))

    def asked(self) -> int:
        """How often the plugin has been."""
        return len((self.directory / "asked").read_text())

    async def followed(self, clock: Clock) -> Configuration:
        """As the worker opens it, but with the test's time."""
        found = await configuration(settings_of(KUBECONFIG_PATH=str(self.path)))
        assert isinstance(found.refresh_api_key_hook, TokenRefresher)
        found.refresh_api_key_hook = TokenRefresher(self.path, clock)
        return found


async def bearer(found: Configuration) -> str:
    """What the next request would send."""
    value: str = (await found.auth_settings())["BearerToken"]["value"]
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


async def test_a_plugin_is_followed(with_plugin: Kubeconfig, clock: Clock):
    """A plugin's new token is used a minute later, and the plugin is not asked again before each minute is over."""
    found = await with_plugin.followed(clock)
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS - 0.1)
    assert [await bearer(found) for _ in range(3)] == ["Bearer first"] * 3
    assert with_plugin.asked() == 1
    clock.advance(0.1)
    assert [await bearer(found) for _ in range(3)] == ["Bearer second"] * 3
    assert with_plugin.asked() == 2
    with_plugin.token.write_text("third")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer third"
    assert with_plugin.asked() == 3


async def test_many_requests_at_once(with_plugin: Kubeconfig, clock: Clock):
    """A minute that is over for many requests at once asks the plugin once."""
    found = await with_plugin.followed(clock)
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert set(await asyncio.gather(*(bearer(found) for _ in range(20)))) <= {"Bearer first", "Bearer second"}
    assert with_plugin.asked() == 2
    assert await bearer(found) == "Bearer second"


@pytest.mark.parametrize("trouble", ["broken", "rubbish"])
async def test_a_broken_plugin(with_plugin: Kubeconfig, clock: Clock, trouble: str):
    """A plugin that fails leaves the token as it is, and is asked again a minute later, not before."""
    found = await with_plugin.followed(clock)
    with_plugin.token.write_text(trouble)
    clock.advance(TOKEN_SECONDS)
    assert [await bearer(found) for _ in range(2)] == ["Bearer first"] * 2
    assert with_plugin.asked() == 2
    with_plugin.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer second"


async def test_a_plugin_that_is_gone(with_plugin: Kubeconfig, clock: Clock):
    """A plugin that cannot be run any more leaves the token as it is."""
    found = await with_plugin.followed(clock)
    with_plugin.write({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/plugin"}})
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer first"


async def test_a_token_file_is_followed(with_file: Kubeconfig, clock: Clock):
    """A token file's new content is used a minute later."""
    found = await with_file.followed(clock)
    with_file.token.write_text("second")
    clock.advance(TOKEN_SECONDS - 1)
    assert await bearer(found) == "Bearer first"
    clock.advance(1)
    assert await bearer(found) == "Bearer second"


async def test_a_token_file_that_is_gone(with_file: Kubeconfig, clock: Clock):
    """A token file that is missing for a while leaves the token as it is."""
    found = await with_file.followed(clock)
    with_file.token.unlink()
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer first"
    with_file.token.write_text("second")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer second"


async def test_a_replaced_kubeconfig_is_followed(tmp_path: Path, clock: Clock):
    """A kubeconfig that is replaced by one with another token is followed, whether or not it can be read meanwhile."""
    kubeconfig = Kubeconfig(tmp_path)
    kubeconfig.write({"token": "first"})
    found = await kubeconfig.followed(clock)
    kubeconfig.path.write_text("{")
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer first"
    kubeconfig.path.unlink()
    clock.advance(TOKEN_SECONDS)
    assert await bearer(found) == "Bearer first"
    kubeconfig.write({"token": "second"})
    clock.advance(TOKEN_SECONDS - 1)
    assert await bearer(found) == "Bearer first"
    clock.advance(1)
    assert await bearer(found) == "Bearer second"
