"""The protocol of exec plugins, and plugins that misbehave."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from worker.kubernetes.credentials.access import CredentialsError
from worker.kubernetes.credentials.exec_plugin import Credential, run
from worker.kubernetes.credentials.kubeconfig_types import Cluster, Exec, Extension, Variable

pytestmark = pytest.mark.anyio

V1 = "client.authentication.k8s.io/v1"
CLUSTER = Cluster(server="https://a:1", certificate_authority="/nowhere")


def plugin_of(code: str, **fields: Any) -> Exec:
    """Return a plugin that runs Python code."""
    return Exec(**{"api_version": V1, "command": sys.executable, "args": ("-c", code), **fields})


def printing(status: object, api_version: str = V1, kind: str = "ExecCredential") -> Exec:
    document = {"apiVersion": api_version, "kind": kind, "status": status}
    return plugin_of(f"print({msgspec.json.encode(document).decode()!r})")


async def test_token_with_null_fields_is_accepted():
    status = {"token": "t", "clientCertificateData": None, "expirationTimestamp": None}
    assert await run(printing(status), CLUSTER) == Credential(token="t")


async def test_plugin_gets_variables_and_no_terminal():
    code = "import json, os, sys; print(json.dumps({**json.loads(os.environ['KUBERNETES_EXEC_INFO']),"
    code += " 'status': {'token': os.environ['MINE'] + repr(sys.stdin.read())}}))"
    credential = await run(plugin_of(code, env=(Variable(name="MINE", value="mine"),)), CLUSTER)
    assert credential.token == "mine''"


async def test_plugin_that_asks_gets_the_cluster(tmp_path: Path):
    """With the content of the authority's file, and the plugin's own settings in the kubeconfig."""
    (tmp_path / "ca").write_bytes(b"pem")
    extension = Extension(name="client.authentication.k8s.io/exec", extension={"audience": "a"})
    cluster = Cluster(
        server="https://a:1", certificate_authority=str(tmp_path / "ca"), tls_server_name="n", extensions=(extension,)
    )
    code = "import json, os; info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
    code += "print(json.dumps({**info, 'status': {'token': json.dumps(info['spec'])}}))"
    plain = await run(plugin_of(code), cluster)
    assert msgspec.json.decode(plain.token) == {"interactive": False}
    asked = await run(plugin_of(code, provide_cluster_info=True), cluster)
    assert msgspec.json.decode(asked.token) == {
        "interactive": False,
        "cluster": {
            "server": "https://a:1",
            "tls-server-name": "n",
            "certificate-authority-data": "cGVt",
            "config": {"audience": "a"},
        },
    }


REFUSED: dict[str, tuple[Exec, str]] = {
    "missing": (
        Exec(command="/nowhere/plugin", install_hint="Install it.\n"),
        "No such file or directory. Install it.",
    ),
    "not in PATH": (Exec(command="no-such-plugin"), "cannot be run"),
    "failing": (
        plugin_of("import sys; print('a', file=sys.stderr); sys.exit('because')"),
        "failed with code 1: because",
    ),
    "failing silently": (plugin_of("import sys; sys.exit(3)"), "failed with code 3: no message"),
    "killed": (plugin_of("import os; os.kill(os.getpid(), 9)"), "failed with code -9"),
    "silent": (plugin_of(""), "printed no ExecCredential"),
    "not JSON": (plugin_of("print('token')"), "printed no ExecCredential"),
    "a number": (plugin_of("print(1)"), "printed no ExecCredential"),
    "wrong UTF-8": (plugin_of(r"import os; os.write(1, b'\xff')"), "printed no ExecCredential"),
    "too many levels": (plugin_of("print('[' * 100_000)"), "printed no ExecCredential"),
    "endless": (plugin_of("print('x' * 3_000_000)"), "printed no ExecCredential"),
    "another version": (printing({"token": "t"}, "client.authentication.k8s.io/v1beta1"), "expected .*/v1 Exec"),
    "another kind": (printing({"token": "t"}, V1, "Pod"), "printed .*/v1 Pod; expected"),
    "no status": (printing(None), "neither a token nor a certificate"),
    "an empty status": (printing({}), "neither a token nor a certificate"),
    "a certificate without key": (printing({"clientCertificateData": "c"}), "a certificate without its key"),
    "a number as token": (printing({"token": 1}), "printed no ExecCredential"),
    "a wrong time": (printing({"token": "t", "expirationTimestamp": "soon"}), "printed no ExecCredential"),
}


@pytest.mark.parametrize(("plugin", "message"), REFUSED.values(), ids=REFUSED)
async def test_plugin_without_credential_is_refused(plugin: Exec, message: str):
    with pytest.raises(CredentialsError, match=message) as refusal:
        await run(plugin, CLUSTER)
    assert "\n" not in str(refusal.value)


async def test_plugin_with_long_messages_is_read_to_its_end():
    """A full pipe must not stop the plugin."""
    document = msgspec.json.encode({"apiVersion": V1, "kind": "ExecCredential", "status": {"token": "t"}})
    code = f"import sys; print('x' * 1_000_000, file=sys.stderr); print({document.decode()!r})"
    assert (await run(plugin_of(code), CLUSTER)).token == "t"


HANGING = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(60)
"""


def is_running(pid: str) -> bool:
    stat = Path("/proc", pid, "stat")
    return stat.exists() and " Z " not in stat.read_text()


def open_files() -> set[Path]:
    return set(Path("/dev/fd").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_hanging_plugin_is_ended_with_its_children(tmp_path: Path, how: str):
    """No process and no open file stays behind."""
    before, pids = open_files(), tmp_path / "pids"
    seconds = 2.0 if how == "timeout" else 60.0
    running = asyncio.create_task(run(plugin_of(HANGING, args=("-c", HANGING, str(pids))), CLUSTER, seconds))
    await until(lambda: pids.exists() and bool(pids.read_text()))
    if how == "timeout":
        with pytest.raises(CredentialsError, match="took more than 2 s"):
            await running
    else:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
    await until(lambda: not any(map(is_running, pids.read_text().split())))
    assert open_files() <= before
