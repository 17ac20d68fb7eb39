"""The command, run as a process."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
async def test_command_serves_until_signal(tmp_path: Path, stop_signal: signal.Signals):
    path = tmp_path / "kubeconfig"
    arguments = ["-m", "deploy.local.emulator", "--kubeconfig", str(path), "--node-address", "127.9.9.9"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(10):
        assert process.stdout is not None
        started = msgspec.json.decode(await process.stdout.readline())
        assert (started["pid"], started["kubeconfig"]) == (process.pid, str(path))
        assert path.stat().st_mode & 0o777 == 0o600
        config = msgspec.json.decode(path.read_bytes())
        assert config["clusters"][0]["cluster"]["server"] == started["server"]
        async with Client(started["server"], config["users"][0]["user"]["token"]) as client:
            assert (await client.get("namespaces", "default")).status == 200
            watch = asyncio.create_task(anext(client.watch("pods"), None))
            process.send_signal(stop_signal)
            assert await process.wait() == 0
        watch.cancel()
        await asyncio.wait([watch])


async def test_kubernetes_client_reads_kubeconfig_and_responses(tmp_path: Path):
    from kubernetes_asyncio import client as kubernetes  # noqa: PLC0415 - slow to import, needed here alone
    from kubernetes_asyncio import config  # noqa: PLC0415

    from deploy.local.emulator import kubeconfig  # noqa: PLC0415
    from deploy.local.emulator.base.options import Options  # noqa: PLC0415
    from deploy.local.emulator.runner import run  # noqa: PLC0415

    async with run(Options(node_address="127.9.9.8")) as emulator:
        kubeconfig.write(tmp_path / "config", emulator.url, emulator.cluster.token)
        settings = kubernetes.Configuration()
        await config.load_kube_config(str(tmp_path / "config"), client_configuration=settings)
        async with kubernetes.ApiClient(settings) as api:
            core = kubernetes.CoreV1Api(api)
            spec = kubernetes.V1PodSpec(containers=[kubernetes.V1Container(name="c", image="x")])
            body = kubernetes.V1Pod(metadata=kubernetes.V1ObjectMeta(name="p", labels={"a": "b"}), spec=spec)
            created = await core.create_namespaced_pod("default", body)
            listed = await core.list_namespaced_pod("default", label_selector="a=b")
            assert [pod.metadata.uid for pod in listed.items] == [created.metadata.uid]
            patched = await core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"c": "d"}}})
            assert patched.metadata.labels == {"a": "b", "c": "d"}
