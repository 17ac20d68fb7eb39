"""Access from the files of a Pod's service account."""

from pathlib import Path

import pytest

from tests.support.certificates import Authority
from worker.kubernetes.credentials.access import CredentialsError
from worker.kubernetes.credentials.in_cluster import InClusterSource

pytestmark = pytest.mark.anyio


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the service account in a Pod."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(Authority(tmp_path).certificate.read_bytes())
    return tmp_path


async def test_files_of_the_service_account_are_read(service_account: Path):
    access = await InClusterSource(service_account).read(renew=False)
    assert (access.server, access.headers) == ("https://[fd00::1]:443", (("Authorization", "Bearer first"),))
    assert access.authority == (service_account / "ca.crt").read_bytes()
    assert access.verify_tls


async def test_each_read_returns_the_present_token(service_account: Path):
    """The kubelet replaces the token before it expires."""
    source = InClusterSource(service_account)
    await source.read(renew=False)
    (service_account / "token").write_text("second")
    assert (await source.read(renew=False)).headers == (("Authorization", "Bearer second"),)


@pytest.mark.parametrize("name", ["token", "ca.crt"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\n"])
async def test_file_that_cannot_be_used_is_refused(service_account: Path, name: str, content: bytes | None):
    (service_account / name).unlink()
    if content is not None:
        (service_account / name).write_bytes(content)
    with pytest.raises(CredentialsError):
        await InClusterSource(service_account).read(renew=False)


async def test_process_outside_a_cluster_is_refused(service_account: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(CredentialsError, match="Service host/port is not set"):
        await InClusterSource(service_account).read(renew=False)
