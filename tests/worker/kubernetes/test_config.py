"""The place of the configuration, and the settings that override it."""

import shutil
from pathlib import Path

import certifi
import pytest

from shared.errors import InvalidSettings
from shared.settings import Settings
from tests.support.kubeconfig import KubeconfigFile, kubeconfig
from tests.support.records import settings_of
from worker.kubernetes.config import configuration

pytestmark = pytest.mark.anyio

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


@pytest.fixture
def in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


async def authorization(settings: Settings) -> str:
    return (await (await configuration(settings)).credentials.current()).headers["Authorization"]


async def test_kubeconfig_sets_server_and_token(file: str):
    settings = settings_of(KUBECONFIG_PATH=file)
    assert (await configuration(settings)).host == "https://localhost:6443"
    assert await authorization(settings) == "Bearer the-token"


async def test_directory_is_refused_with_setting_name(tmp_path: Path):
    """Docker creates a directory if the file to mount is missing."""
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .* is a directory"):
        await configuration(settings_of(KUBECONFIG_PATH=str(tmp_path)))


@pytest.mark.usefixtures("in_a_pod")
@pytest.mark.parametrize("path", ["{0}/absent", "{0}/absent:{0}/absent as well", "~/absent"])
async def test_missing_path_that_was_set_is_never_replaced_by_the_cluster_around(tmp_path: Path, path: str):
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .*absent.* is missing; mount the file"):
        await configuration(settings_of(KUBECONFIG_PATH=path.format(tmp_path)))


@pytest.fixture
def without_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Replaces the default path by one that is missing: this machine may have a file there."""
    path = str(tmp_path / "absent")
    monkeypatch.setattr("worker.kubernetes.config.DEFAULT_PATH", path)
    return path


@pytest.mark.usefixtures("outside_a_cluster")
async def test_missing_default_outside_a_cluster_is_refused_with_its_path(without_default_file: str):
    with pytest.raises(InvalidSettings, match=r"KUBECONFIG_PATH: .*absent is missing; .* Not in a cluster either: "):
        await configuration(settings_of(KUBECONFIG_PATH=without_default_file))


@pytest.mark.usefixtures("in_a_pod")
async def test_missing_default_in_a_pod_leads_to_its_service_account(without_default_file: str):
    """These tests run without one."""
    with pytest.raises(InvalidSettings, match="Not in a cluster either: Service token file does not exist"):
        await configuration(settings_of(KUBECONFIG_PATH=without_default_file))


@pytest.mark.parametrize("content", ["", "no kubeconfig", "{}", '{"clusters": []}', "\t:"])
async def test_file_that_is_no_kubeconfig_is_refused_with_setting_name(tmp_path: Path, content: str):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match="KUBECONFIG_PATH"):
        await configuration(settings_of(KUBECONFIG_PATH=str(path)))


@pytest.mark.parametrize("server", ["https://host.docker.internal:6443", "https://host.docker.internal:6443/"])
async def test_k8s_api_server_replaces_server_and_nothing_else(file: str, server: str):
    settings = settings_of(KUBECONFIG_PATH=file, K8S_API_SERVER=server)
    assert (await configuration(settings)).host == "https://host.docker.internal:6443"
    assert await authorization(settings) == "Bearer the-token"


async def test_k8s_api_server_that_is_no_url_is_refused(file: str):
    with pytest.raises(InvalidSettings, match=r"K8S_API_SERVER: server: expected a URL, https://host:port"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_API_SERVER="https://host:99999"))


async def test_k8s_ca_file_must_hold_certificates(file: str, tmp_path: Path):
    authority = str(tmp_path / "ca.pem")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidSettings, match="K8S_CA_FILE"):
        await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))
    shutil.copy(certifi.where(), authority)
    await configuration(settings_of(KUBECONFIG_PATH=file, K8S_CA_FILE=authority))


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "ftp://a", "http://:1"])
async def test_proxy_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch, url: str
):
    """It would be ignored otherwise, or spoken to wrongly."""
    kubeconfig_file = KubeconfigFile(tmp_path)
    kubeconfig_file.write(USER, proxy_url=url)
    with pytest.raises(InvalidSettings, match=f"KUBECONFIG_PATH: proxy-url: .*got '{url}', which is not supported"):
        await configuration(settings_of(KUBECONFIG_PATH=str(kubeconfig_file.path)))
    kubeconfig_file.write(USER, server="https://kubernetes.test")
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(InvalidSettings, match=f"^HTTPS_PROXY: .*got '{url}', which is not supported"):
        await configuration(settings_of(KUBECONFIG_PATH=file))


async def test_connection_pool_is_larger_than_number_of_jobs(file: str):
    """No job waits for a connection."""
    loaded = await configuration(settings_of(KUBECONFIG_PATH=file, WORKER_MAX_JOBS="300"))
    assert loaded.max_connections > 300
