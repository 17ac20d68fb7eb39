"""Certificates in memory: what is trusted, what is proven, and what is refused at start."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shared.errors import InvalidSettings
from tests.support.api_server import ApiServer, serving
from tests.support.certificates import Authority
from tests.support.kubeconfig import KubeconfigFile
from tests.support.records import settings_of
from tests.worker.kubernetes.conftest import open_client
from worker.kubernetes.client import PODS
from worker.kubernetes.config import configuration
from worker.kubernetes.credentials.access import Access, CredentialsError
from worker.kubernetes.credentials.tls import check_authority, tls_context
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def access(authority: Authority) -> Access:
    """Access with a client certificate."""
    certificate, key = authority.issue("client")
    return Access(server="https://localhost", certificate=certificate.read_bytes(), key=key.read_bytes())


def test_encrypted_key_is_refused_without_asking_for_a_password(access: Access, tmp_path: Path):
    """OpenSSL would ask on the terminal and wait."""
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-out", str(tmp_path / "encrypted")]
    subprocess.run(command, input=access.key, check=True, capture_output=True)
    with pytest.raises(CredentialsError, match="the key is encrypted"):
        tls_context(replace(access, key=(tmp_path / "encrypted").read_bytes()))


def test_key_of_another_certificate_is_refused(access: Access, authority: Authority):
    _, key = authority.issue("another")
    with pytest.raises(CredentialsError, match="the key belongs to another certificate"):
        tls_context(replace(access, key=key.read_bytes()))


@pytest.mark.parametrize("content", [b"no certificate", b"\xff\xfe"])
def test_certificate_that_is_none_is_refused(access: Access, content: bytes):
    with pytest.raises(CredentialsError, match="the client certificate and its key cannot be used"):
        tls_context(replace(access, certificate=content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not in PEM format"),
        (b"no certificate", "not in PEM format"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "damaged"),
        (b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----", "damaged"),
    ],
)
def test_authority_that_is_no_certificate_is_refused(content: bytes, message: str):
    with pytest.raises(CredentialsError, match=message):
        check_authority(content)


def test_authority_with_text_in_any_encoding_is_accepted(authority: Authority):
    """Bundles of the system name their certificates."""
    content = authority.certificate.read_bytes()
    context = tls_context(Access(server="https://a", authority="# Ä\n".encode("latin-1") + content + b"\n" + content))
    assert len(context.get_ca_certs()) == 1


# On a real server


async def list_pods(file: KubeconfigFile, **settings: Any) -> None:
    async with await open_client(file, **settings) as client:
        await client.list_all(PODS)


@pytest.fixture
def with_token(kubeconfig_file: KubeconfigFile, api_server: ApiServer) -> KubeconfigFile:
    kubeconfig_file.write({"token": "t"})
    api_server.accepted = {"Bearer t"}
    return kubeconfig_file


async def test_unknown_authority_is_not_trusted(with_token: KubeconfigFile):
    """The authorities of the system do not count beside that of the kubeconfig."""
    with_token.write({"token": "t"}, certificate_authority="")
    with pytest.raises(KubernetesError, match="certificate verify failed"):
        await list_pods(with_token)


async def test_intermediate_authority_is_trusted_as_by_kubectl(tmp_path: Path, kubeconfig_file: KubeconfigFile):
    """The kubeconfig has the intermediate certificate only, and not that of the root."""
    (tmp_path / "root").mkdir()
    root = Authority(tmp_path / "root")
    async with serving(tmp_path / "root", authority=Authority(tmp_path / "root", "intermediate", root)) as server:
        server.accepted = {"Bearer t"}
        authority = str(server.authority.certificate)
        kubeconfig_file.write({"token": "t"}, server=server.url, certificate_authority=authority)
        await list_pods(kubeconfig_file)


async def test_tls_server_name_replaces_the_name_in_the_url(tmp_path: Path, kubeconfig_file: KubeconfigFile):
    (tmp_path / "named").mkdir()
    async with serving(tmp_path / "named", names="DNS:kubernetes.example") as server:
        server.accepted = {"Bearer t"}
        cluster = {"server": server.url, "certificate_authority": str(server.authority.certificate)}
        kubeconfig_file.write({"token": "t"}, **cluster)
        with pytest.raises(KubernetesError, match="not valid for"):
            await list_pods(kubeconfig_file)
        await list_pods(kubeconfig_file, K8S_TLS_SERVER_NAME="kubernetes.example")
        kubeconfig_file.write({"token": "t"}, **cluster, tls_server_name="kubernetes.example")
        await list_pods(kubeconfig_file)


async def test_insecure_skip_tls_verify_accepts_any_certificate(with_token: KubeconfigFile):
    with_token.write({"token": "t"}, certificate_authority="", insecure_skip_tls_verify=True)
    await list_pods(with_token)


async def test_k8s_verify_tls_false_accepts_any_certificate(with_token: KubeconfigFile):
    with_token.write({"token": "t"}, certificate_authority="")
    await list_pods(with_token, K8S_VERIFY_TLS="false")


async def test_k8s_ca_file_replaces_the_authority_of_the_kubeconfig(
    with_token: KubeconfigFile, tmp_path: Path, api_server: ApiServer
):
    (tmp_path / "other").mkdir()
    with_token.write({"token": "t"}, certificate_authority=str(Authority(tmp_path / "other").certificate))
    await list_pods(with_token, K8S_CA_FILE=str(api_server.authority.certificate))


async def test_damaged_certificate_is_refused_at_start(kubeconfig_file: KubeconfigFile):
    kubeconfig_file.write({"client-certificate-data": "aGVs", "client-key-data": "aGVs"})
    with pytest.raises(InvalidSettings, match="KUBECONFIG_PATH: the client certificate and its key cannot be used"):
        await configuration(settings_of(KUBECONFIG_PATH=str(kubeconfig_file.path)))
