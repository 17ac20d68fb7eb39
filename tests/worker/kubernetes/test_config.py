import shutil
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest

from shared.errors import InvalidSettings
from tests.support.records import settings_of
from worker.kubernetes.config import configuration

pytestmark = pytest.mark.anyio

TLS_NAME = "kubernetes.example"


def kubeconfig(path: Path, cluster: dict[str, Any] | None = None) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://localhost:6443", **(cluster or {})}}],
        "users": [{"name": "c", "user": {"token": "the-token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    path.write_bytes(msgspec.json.encode(config))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Of a cluster at https://localhost:6443."""
    return kubeconfig(tmp_path / "config")


@pytest.fixture
def outside_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tests run in a Pod."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


async def test_file(file: str):
    """Server and credentials are the kubeconfig's, and certificates are checked."""
    found = await configuration(settings_of(KUBECONFIG_PATH=file))
    assert found.host == "https://localhost:6443"
    assert (await found.auth_settings())["BearerToken"]["value"] == "Bearer the-token"
    assert found.verify_ssl is True


async def test_directory(tmp_path: Path):
    """A directory, which Docker makes of a missing file, is refused with the setting's name and what to do."""
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .* is a directory"):
        await configuration(settings_of(KUBECONFIG_PATH=str(tmp_path)))


@pytest.mark.usefixtures("outside_a_cluster")
async def test_missing_outside_a_cluster(tmp_path: Path):
    """No file and no cluster around: refused, with the setting's name and the path that is missing."""
    path = str(tmp_path / "absent")
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .*absent is missing"):
        await configuration(settings_of(KUBECONFIG_PATH=path))


@pytest.mark.parametrize("content", ["", "no kubeconfig", "{}", '{"clusters": []}', "\t:"])
async def test_a_file_that_is_no_kubeconfig(tmp_path: Path, content: str):
    """A file that is something else, or empty, is refused with the setting's name."""
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match="KUBECONFIG_PATH"):
        await configuration(settings_of(KUBECONFIG_PATH=str(path)))


@pytest.mark.parametrize("server", ["https://host.docker.internal:6443", "https://host.docker.internal:6443/"])
async def test_another_server(file: str, server: str):
    """K8S_API_SERVER replaces the kubeconfig's server; certificates are checked all the same, and the token stays."""
    found = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_API_SERVER=server))
    assert found.host == "https://host.docker.internal:6443"
    assert found.verify_ssl is True
    assert (await found.auth_settings())["BearerToken"]["value"] == "Bearer the-token"


async def test_unchecked_certificates(file: str):
    """K8S_VERIFY_TLS=false, and nothing less, switches certificate checking off."""
    found = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_VERIFY_TLS="false"))
    assert found.verify_ssl is False


async def test_a_private_authority(file: str, tmp_path: Path):
    """K8S_CA_FILE is the authority that the server's certificate is checked against."""
    authority = str(tmp_path / "ca.pem")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    shutil.copy(certifi.where(), authority)
    found = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    assert (found.ssl_ca_cert, found.verify_ssl) == (authority, True)


async def test_a_certificate_for_another_name(file: str):
    """K8S_TLS_SERVER_NAME is the name that the certificate is checked for, instead of the address."""
    found = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_TLS_SERVER_NAME=TLS_NAME))
    assert (found.tls_server_name, found.verify_ssl) == (TLS_NAME, True)


async def test_what_the_kubeconfig_says_about_tls(tmp_path: Path):
    """The kubeconfig's own `insecure-skip-tls-verify` and `tls-server-name` hold where no setting says otherwise."""
    path = kubeconfig(tmp_path / "config", {"insecure-skip-tls-verify": True, "tls-server-name": TLS_NAME})
    found = await configuration(settings_of(KUBECONFIG_PATH=path))
    assert (found.tls_server_name, found.verify_ssl) == (TLS_NAME, False)


async def test_a_connection_for_every_job(file: str):
    """The connection pool never makes a job wait: it has more connections than there are jobs at once."""
    found = await configuration(settings_of(KUBECONFIG_PATH=file, WORKER_MAX_JOBS="300"))
    assert found.connection_pool_maxsize > 300
