"""The checks of the API server: connection, credentials, certificate and permissions."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.doctor.api_server import OPTIONAL, REQUIRED, container_settings
from deploy.doctor.findings import Verdict
from deploy.local.emulator import kubeconfig
from deploy.local.emulator.client import Client
from deploy.local.stack import free_port
from tests.deploy.doctor.conftest import NAMESPACE, RunCheck, server

pytestmark = pytest.mark.anyio


async def test_connection_and_permissions_of_an_administrator_are_ok(run_check: RunCheck, kubernetes: Client):
    result = await run_check("cluster")
    assert result.verdict is not Verdict.FAILED
    assert result.detail.startswith(f"v1.36.2 at {server(kubernetes)} answers in ")
    result = await run_check("permissions")
    assert (result.verdict, result.detail) == (Verdict.OK, "all 12 permissions in default")


async def test_slow_api_server_is_a_warning(run_check: RunCheck, kubernetes: Client):
    await kubernetes.faults({"kind": "delay", "seconds": 0.6, "verb": "get"})
    result = await run_check("cluster")
    assert result.verdict is Verdict.WARNING
    assert "load of the API server" in result.advice


async def test_missing_kubeconfig_fails_one_check(run_check: RunCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other checks are unknown."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = str(tmp_path / "missing")
    result = await run_check("cluster", KUBECONFIG_PATH=path)
    assert result.verdict is Verdict.FAILED
    assert f"KUBECONFIG_PATH: {path} is missing" in result.detail
    result = await run_check("namespace", KUBECONFIG_PATH=path)
    assert (result.verdict, result.advice) == (Verdict.UNKNOWN, "See the check `cluster`.")


async def test_no_cluster_in_the_pod_of_an_api_is_unknown_by_design(run_check: RunCheck, tmp_path: Path):
    variables = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    result = await run_check("cluster", variables=variables, KUBECONFIG_PATH=str(tmp_path / "missing"))
    assert result.verdict is Verdict.UNKNOWN
    assert "right for an API" in result.detail
    assert "in a worker's Pod" in result.advice


async def test_ca_file_without_certificate_fails(run_check: RunCheck, tmp_path: Path):
    (tmp_path / "authority.pem").write_text("no certificate")
    result = await run_check("cluster", K8S_CA_FILE=str(tmp_path / "authority.pem"))
    assert result.verdict is Verdict.FAILED
    assert "K8S_CA_FILE" in result.detail


async def test_api_server_that_does_not_answer_fails_one_check(run_check: RunCheck):
    """The other checks are unknown."""
    url = f"https://127.0.0.1:{free_port()}"
    result = await run_check("namespace", K8S_API_SERVER=url)
    assert (result.verdict, result.detail) == (Verdict.UNKNOWN, "the cluster does not answer")
    result = await run_check("cluster", K8S_API_SERVER=url)
    assert result.verdict is Verdict.FAILED
    assert "does not answer" in result.detail
    assert "Check that the cluster is up" in result.advice


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv", "KUBERNETES_SERVICE_HOST"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_localhost_in_a_container_fails_with_the_settings_to_use(
    run_check: RunCheck, tmp_path: Path, host: str, mark: str
):
    port = free_port()
    variables = {}
    if mark.isupper():
        variables[mark] = "10.96.0.1"
    else:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    result = await run_check("cluster", variables=variables, root=tmp_path, K8S_API_SERVER=f"https://{host}:{port}")
    assert result.verdict is Verdict.FAILED
    assert "in a container, that address is the container itself" in result.detail
    assert result.advice == f"Set K8S_API_SERVER=https://host.docker.internal:{port} K8S_TLS_SERVER_NAME=localhost"


@pytest.mark.parametrize(
    ("server", "settings"),
    [
        ("http://localhost:{port}", "K8S_API_SERVER=http://host.docker.internal:{port}"),
        (
            "https://[::1]:{port}/k8s/clusters/a",
            "K8S_API_SERVER=https://host.docker.internal:{port}/k8s/clusters/a K8S_TLS_SERVER_NAME=localhost",
        ),
    ],
    ids=["a proxy without TLS", "a path"],
)
async def test_settings_for_a_container_replace_only_the_host(run_check: RunCheck, server: str, settings: str):
    port = free_port()
    variables = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    result = await run_check("cluster", variables=variables, K8S_API_SERVER=server.format(port=port))
    assert result.advice == f"Set {settings.format(port=port)}"


def test_settings_for_a_container_omit_a_default_port():
    assert container_settings("http://localhost") == "K8S_API_SERVER=http://host.docker.internal"


async def test_localhost_that_answers_in_a_container_is_accepted(run_check: RunCheck):
    """A container can share the network of its host."""
    result = await run_check("cluster", variables={"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "answers in" in result.detail


async def test_token_of_another_cluster_fails(run_check: RunCheck, kubernetes: Client, tmp_path: Path):
    kubeconfig.write(tmp_path / "other", server(kubernetes), "another")
    result = await run_check("cluster", KUBECONFIG_PATH=str(tmp_path / "other"))
    assert result.verdict is Verdict.FAILED
    assert "401 Unauthorized" in result.detail
    assert "get a new kubeconfig" in result.advice


async def test_server_that_is_no_api_server_fails(run_check: RunCheck, kubernetes: Client):
    result = await run_check("cluster", K8S_API_SERVER=f"{server(kubernetes)}/elsewhere")
    assert result.verdict is Verdict.FAILED
    assert "Is this the API server?" in result.advice


async def test_missing_required_permissions_fail(run_check: RunCheck, kubernetes: Client):
    await kubernetes.faults(
        {"kind": "error", "status": 403, "verb": "watch", "resource": "pods"},
        {"kind": "error", "status": 403, "resource": "services", "namespace": NAMESPACE},
    )
    result = await run_check("permissions")
    assert result.verdict is Verdict.FAILED
    missing = ["watch pods", *(f"{verb} services" for verb in REQUIRED["services"])]
    assert result.detail == f"missing in default: {', '.join(missing)}"
    assert "Role" in result.advice


async def test_missing_optional_permissions_are_a_warning(run_check: RunCheck, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "resource": "events"})
    result = await run_check("permissions")
    assert result.verdict is Verdict.WARNING
    missing = ", ".join(f"{verb} events" for verb in OPTIONAL["events"])
    assert result.detail.startswith(f"missing in default: {missing}")


async def test_permissions_of_an_anonymous_user_fail(run_check: RunCheck, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "message": "User is anonymous", "verb": "post"})
    result = await run_check("permissions")
    assert result.verdict is Verdict.FAILED
    assert "credentials" in result.advice


class TlsServer(NamedTuple):
    """The emulated cluster behind TLS, with a self-signed certificate."""

    url: str
    authority: Path


StartTls = Callable[[str], Awaitable[TlsServer]]


@pytest.fixture
async def start_tls(kubernetes: Client, tmp_path: Path) -> AsyncIterator[StartTls]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to create a certificate with")
    async with AsyncExitStack() as stack:

        async def start(names: str) -> TlsServer:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*create_certificate(tmp_path, names))
            port = kubernetes.http.base_url.port
            listener = await asyncio.start_server(lambda *ends: forward(port, *ends), "127.0.0.1", 0, ssl=context)
            stack.callback(listener.close)
            return TlsServer(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}", tmp_path / "tls.pem")

        yield start


def create_certificate(directory: Path, names: str) -> tuple[Path, Path]:
    """Create a self-signed certificate for these names; return its file and the file of its key."""
    files = directory / "tls.pem", directory / "tls.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test"]
    output = ["-out", str(files[0]), "-keyout", str(files[1]), "-addext", f"subjectAltName={names}"]
    subprocess.run(["openssl", "req", "-x509", *kind, *output], check=True, capture_output=True, timeout=60)
    return files


async def forward(port: int | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


async def test_certificate_of_an_unknown_authority_fails(run_check: RunCheck, start_tls: StartTls):
    cluster = await start_tls("IP:127.0.0.1")
    result = await run_check("cluster", K8S_API_SERVER=cluster.url)
    assert result.verdict is Verdict.FAILED
    assert "is not trusted" in result.detail
    assert "K8S_CA_FILE" in result.advice
    result = await run_check("cluster", K8S_API_SERVER=cluster.url, K8S_CA_FILE=str(cluster.authority))
    assert "answers in" in result.detail


async def test_certificate_for_another_name_fails(run_check: RunCheck, start_tls: StartTls):
    cluster = await start_tls("DNS:kubernetes")
    settings = {"K8S_API_SERVER": cluster.url, "K8S_CA_FILE": str(cluster.authority)}
    for names in (settings, settings | {"K8S_TLS_SERVER_NAME": "localhost"}):
        result = await run_check("cluster", **names)
        assert result.verdict is Verdict.FAILED
        assert "is for another name" in result.detail
        assert "K8S_TLS_SERVER_NAME" in result.advice
    assert "answers in" in (await run_check("cluster", **settings, K8S_TLS_SERVER_NAME="kubernetes")).detail
