import shutil
from pathlib import Path

import certifi
import pytest

from shared.errors import InvalidSettings
from tests.support.kubeconfig import kubeconfig
from tests.support.records import settings_of
from worker.kubernetes.config import configuration

pytestmark = pytest.mark.anyio

TLS_NAME = "kubernetes.example"
USER = {"token": "the-token"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A kubeconfig of a cluster at https://localhost:6443."""
    path = tmp_path / "config"
    path.write_bytes(kubeconfig(USER))
    return str(path)


@pytest.fixture
def outside_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tests independent of a Pod that they may run in."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


async def test_kubeconfig_sets_server_token_and_certificate_check(file: str):
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file))
    assert loaded.host == "https://localhost:6443"
    assert (await loaded.auth_settings())["BearerToken"]["value"] == "Bearer the-token"
    assert loaded.verify_ssl is True


async def test_directory_is_refused_with_setting_name(tmp_path: Path):
    """Docker creates a directory if the file to mount is missing."""
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .* is a directory"):
        await configuration(settings_of(KUBECONFIG_PATH=str(tmp_path)))


@pytest.mark.usefixtures("outside_a_cluster")
async def test_missing_file_outside_a_cluster_is_refused_with_its_path(tmp_path: Path):
    path = str(tmp_path / "absent")
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .*absent is missing"):
        await configuration(settings_of(KUBECONFIG_PATH=path))


@pytest.mark.parametrize("content", ["", "no kubeconfig", "{}", '{"clusters": []}', "\t:"])
async def test_file_that_is_no_kubeconfig_is_refused_with_setting_name(tmp_path: Path, content: str):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match="KUBECONFIG_PATH"):
        await configuration(settings_of(KUBECONFIG_PATH=str(path)))


@pytest.mark.parametrize("server", ["https://host.docker.internal:6443", "https://host.docker.internal:6443/"])
async def test_k8s_api_server_replaces_server_and_nothing_else(file: str, server: str):
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_API_SERVER=server))
    assert loaded.host == "https://host.docker.internal:6443"
    assert loaded.verify_ssl is True
    assert (await loaded.auth_settings())["BearerToken"]["value"] == "Bearer the-token"


async def test_k8s_verify_tls_false_disables_certificate_check(file: str):
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_VERIFY_TLS="false"))
    assert loaded.verify_ssl is False


async def test_k8s_ca_file_sets_authority_and_must_hold_certificates(file: str, tmp_path: Path):
    authority = str(tmp_path / "ca.pem")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    shutil.copy(certifi.where(), authority)
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    assert (loaded.ssl_ca_cert, loaded.verify_ssl) == (authority, True)


async def test_k8s_tls_server_name_sets_name_of_certificate(file: str):
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, K8S_TLS_SERVER_NAME=TLS_NAME))
    assert (loaded.tls_server_name, loaded.verify_ssl) == (TLS_NAME, True)


async def test_tls_options_of_kubeconfig_apply_without_settings(tmp_path: Path):
    path = tmp_path / "config"
    path.write_bytes(kubeconfig(USER, **{"insecure-skip-tls-verify": True, "tls-server-name": TLS_NAME}))
    loaded = await configuration(settings_of(KUBECONFIG_PATH=str(path)))
    assert (loaded.tls_server_name, loaded.verify_ssl) == (TLS_NAME, False)


async def test_connection_pool_is_larger_than_number_of_jobs(file: str):
    """No job waits for a connection."""
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, WORKER_MAX_JOBS="300"))
    assert loaded.connection_pool_maxsize > 300
