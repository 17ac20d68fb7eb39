"""The cluster: where it is, whether it knows us, and what we may."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from deploy.doctor.api_server import HELPFUL, NEEDED, from_container
from deploy.doctor.findings import Verdict
from deploy.local.emulator import kubeconfig
from deploy.local.emulator.client import Client
from deploy.local.stack import free_port
from tests.deploy.doctor.conftest import NAMESPACE, Look, server

pytestmark = pytest.mark.anyio


async def test_all_is_well(look: Look, kubernetes: Client):
    found = await look("cluster")
    assert found.verdict is not Verdict.BROKEN
    assert found.seen.startswith(f"v1.36.2 at {server(kubernetes)} answers in ")
    found = await look("permissions")
    assert (found.verdict, found.seen) == (Verdict.OK, "all 12 in default")


async def test_a_slow_one(look: Look, kubernetes: Client):
    await kubernetes.faults({"kind": "delay", "seconds": 0.6, "verb": "get"})
    found = await look("cluster")
    assert found.verdict is Verdict.WARNING
    assert "load of the API server" in found.advice


async def test_no_kubeconfig(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Said once: the other checks say that they do not know."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = str(tmp_path / "missing")
    found = await look("cluster", KUBECONFIG_PATH=path)
    assert found.verdict is Verdict.BROKEN
    assert f"KUBECONFIG_PATH: {path} is missing" in found.seen
    found = await look("namespace", KUBECONFIG_PATH=path)
    assert (found.verdict, found.advice) == (Verdict.UNKNOWN, "See `cluster`.")


async def test_certificates_that_are_none(look: Look, tmp_path: Path):
    (tmp_path / "authority.pem").write_text("no certificate")
    found = await look("cluster", K8S_CA_FILE=str(tmp_path / "authority.pem"))
    assert found.verdict is Verdict.BROKEN
    assert "K8S_CA_FILE" in found.seen


async def test_nobody_answers(look: Look):
    """Said once, as above."""
    away = f"https://127.0.0.1:{free_port()}"
    found = await look("namespace", K8S_API_SERVER=away)
    assert (found.verdict, found.seen) == (Verdict.UNKNOWN, "the cluster does not answer")
    found = await look("cluster", K8S_API_SERVER=away)
    assert found.verdict is Verdict.BROKEN
    assert "does not answer" in found.seen
    assert "Is the cluster up" in found.advice


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv", "KUBERNETES_SERVICE_HOST"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_localhost_in_a_container(look: Look, tmp_path: Path, host: str, mark: str):
    port = free_port()
    around = {}
    if mark.isupper():
        around[mark] = "10.96.0.1"
    else:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    found = await look("cluster", around=around, root=tmp_path, K8S_API_SERVER=f"https://{host}:{port}")
    assert found.verdict is Verdict.BROKEN
    assert "in a container, that is the container itself" in found.seen
    assert found.advice == f"K8S_API_SERVER=https://host.docker.internal:{port} K8S_TLS_SERVER_NAME=localhost"


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
async def test_what_is_to_be_set_in_a_container_differs_in_the_host_alone(look: Look, server: str, settings: str):
    port = free_port()
    around = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    found = await look("cluster", around=around, K8S_API_SERVER=server.format(port=port))
    assert found.advice == settings.format(port=port)


def test_a_servers_usual_port_stays_unsaid():
    assert from_container("http://localhost") == "K8S_API_SERVER=http://host.docker.internal"


async def test_localhost_in_a_container_that_answers(look: Look):
    """As where the container has the host's network."""
    found = await look("cluster", around={"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "answers in" in found.seen


async def test_another_clusters_token(look: Look, kubernetes: Client, tmp_path: Path):
    kubeconfig.write(tmp_path / "other", server(kubernetes), "another")
    found = await look("cluster", KUBECONFIG_PATH=str(tmp_path / "other"))
    assert found.verdict is Verdict.BROKEN
    assert "401 Unauthorized" in found.seen
    assert "get a new kubeconfig" in found.advice


async def test_what_answers_is_no_api_server(look: Look, kubernetes: Client):
    found = await look("cluster", K8S_API_SERVER=f"{server(kubernetes)}/elsewhere")
    assert found.verdict is Verdict.BROKEN
    assert "Is this the API server?" in found.advice


async def test_missing_permissions(look: Look, kubernetes: Client):
    await kubernetes.faults(
        {"kind": "error", "status": 403, "verb": "watch", "resource": "pods"},
        {"kind": "error", "status": 403, "resource": "services", "namespace": NAMESPACE},
    )
    found = await look("permissions")
    assert found.verdict is Verdict.BROKEN
    missing = ["watch pods", *(f"{verb} services" for verb in NEEDED["services"])]
    assert found.seen == f"missing in default: {', '.join(missing)}"
    assert "Role" in found.advice


async def test_missing_permissions_without_which_sandboxes_are_made(look: Look, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "resource": "events"})
    found = await look("permissions")
    assert found.verdict is Verdict.WARNING
    assert found.seen.startswith(f"missing in default: {', '.join(f'{verb} events' for verb in HELPFUL['events'])}")


async def test_nobody_in_particular_may_not_even_ask(look: Look, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "message": "User is anonymous", "verb": "post"})
    found = await look("permissions")
    assert found.verdict is Verdict.BROKEN
    assert "credentials" in found.advice


class Https:
    """The emulated cluster behind TLS, with a certificate of our own making."""

    def __init__(self, url: str, authority: Path) -> None:
        self.url = url
        self.authority = authority


@pytest.fixture
async def https(kubernetes: Client, tmp_path: Path) -> AsyncIterator[Callable]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    async with AsyncExitStack() as stack:

        async def start(names: str) -> Https:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate(tmp_path, names))
            port = kubernetes.http.base_url.port
            listener = await asyncio.start_server(lambda *ends: bridge(port, *ends), "127.0.0.1", 0, ssl=context)
            stack.callback(listener.close)
            return Https(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}", tmp_path / "tls.pem")

        yield start


def certificate(directory: Path, names: str) -> tuple[Path, Path]:
    """Issued by itself, to these names; and its key."""
    files = directory / "tls.pem", directory / "tls.key"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test"]
    where = ["-out", str(files[0]), "-keyout", str(files[1]), "-addext", f"subjectAltName={names}"]
    subprocess.run(["openssl", "req", "-x509", *made, *where], check=True, capture_output=True, timeout=60)
    return files


async def bridge(port: int | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


async def test_a_certificate_that_is_not_trusted(look: Look, https):
    cluster = await https("IP:127.0.0.1")
    found = await look("cluster", K8S_API_SERVER=cluster.url)
    assert found.verdict is Verdict.BROKEN
    assert "is not trusted" in found.seen
    assert "K8S_CA_FILE" in found.advice
    found = await look("cluster", K8S_API_SERVER=cluster.url, K8S_CA_FILE=str(cluster.authority))
    assert "answers in" in found.seen


async def test_a_certificate_for_another_name(look: Look, https):
    cluster = await https("DNS:kubernetes")
    given = {"K8S_API_SERVER": cluster.url, "K8S_CA_FILE": str(cluster.authority)}
    for names in (given, given | {"K8S_TLS_SERVER_NAME": "localhost"}):
        found = await look("cluster", **names)
        assert found.verdict is Verdict.BROKEN
        assert "is for another name" in found.seen
        assert "K8S_TLS_SERVER_NAME" in found.advice
    assert "answers in" in (await look("cluster", **given, K8S_TLS_SERVER_NAME="kubernetes")).seen
