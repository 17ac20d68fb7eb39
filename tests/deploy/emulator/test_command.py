"""The command, as a process: what it prints, what it writes, how it ends."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_listens_and_ends(tmp_path: Path, ending: signal.Signals):
    path = tmp_path / "kubeconfig"
    arguments = ["-m", "deploy.local.emulator", "--kubeconfig", str(path), "--node-address", "127.9.9.9"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(10):
        assert process.stdout is not None
        told = msgspec.json.decode(await process.stdout.readline())
        assert (told["pid"], told["kubeconfig"]) == (process.pid, str(path))
        assert path.stat().st_mode & 0o777 == 0o600
        config = msgspec.json.decode(path.read_bytes())
        assert config["clusters"][0]["cluster"]["server"] == told["server"]
        async with Client(told["server"], config["users"][0]["user"]["token"]) as client:
            assert (await client.get("namespaces", "default")).status == 200
            watching = asyncio.create_task(anext(client.watch("pods"), None))
            process.send_signal(ending)
            assert await process.wait() == 0
        watching.cancel()
        await asyncio.wait([watching])


async def test_the_real_clients_kubeconfig_reader_takes_it(tmp_path: Path):
    """And the client itself understands the answers."""
    from kubernetes_asyncio import client as kubernetes  # noqa: PLC0415 - slow to import, needed here alone
    from kubernetes_asyncio import config  # noqa: PLC0415

    from deploy.local.emulator import kubeconfig  # noqa: PLC0415
    from deploy.local.emulator.base.options import Options  # noqa: PLC0415
    from deploy.local.emulator.runner import run  # noqa: PLC0415

    async with run(Options(node_address="127.9.9.8")) as running:
        kubeconfig.write(tmp_path / "config", running.url, running.cluster.token)
        settings = kubernetes.Configuration()
        await config.load_kube_config(str(tmp_path / "config"), client_configuration=settings)
        async with kubernetes.ApiClient(settings) as api:
            core = kubernetes.CoreV1Api(api)
            spec = kubernetes.V1PodSpec(containers=[kubernetes.V1Container(name="c", image="x")])
            body = kubernetes.V1Pod(metadata=kubernetes.V1ObjectMeta(name="p", labels={"a": "b"}), spec=spec)
            made = await core.create_namespaced_pod("default", body)
            found = await core.list_namespaced_pod("default", label_selector="a=b")
            assert [pod.metadata.uid for pod in found.items] == [made.metadata.uid]
            patched = await core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"c": "d"}}})
            assert patched.metadata.labels == {"a": "b", "c": "d"}
