"""Renewal of credentials: from an exec plugin, a token file, or a replaced kubeconfig."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Clock
from tests.support.api_server import UNAUTHORIZED, ApiServer
from tests.support.kubeconfig import KubeconfigFile
from tests.worker.kubernetes.conftest import open_client
from worker.kubernetes.client import PODS, KubernetesClient
from worker.kubernetes.credentials.access import Access
from worker.kubernetes.credentials.exec_plugin import ExecPlugin
from worker.kubernetes.credentials.kubeconfig import KubeconfigSource
from worker.kubernetes.credentials.renewal import MIN_REFRESH_SECONDS, REFRESH_SECONDS, Credentials
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio


async def load(file: KubeconfigFile, clock: Clock) -> Credentials:
    """Load the credentials as the worker does, but with the test's clock."""
    source = KubeconfigSource(str(file.path), ExecPlugin(clock))

    async def read(renew: bool) -> Access:
        return await source.read(renew=renew)

    return Credentials(read, await read(False), clock)


async def bearer(credentials: Credentials) -> str:
    """Return the Authorization header of the next request."""
    return (await credentials.current()).headers["Authorization"]


@pytest.fixture
def with_plugin(tmp_path: Path) -> KubeconfigFile:
    file = KubeconfigFile(tmp_path)
    file.write_plugin({"token": "first"})
    return file


@pytest.fixture
def with_file(tmp_path: Path) -> KubeconfigFile:
    file = KubeconfigFile(tmp_path)
    file.token.write_text("first\n")
    file.write({"tokenFile": str(file.token)})
    return file


async def test_plugin_runs_once_a_minute_and_its_new_token_is_used(with_plugin: KubeconfigFile, clock: Clock):
    credentials = await load(with_plugin, clock)
    with_plugin.set_status({"token": "second"})
    clock.advance(REFRESH_SECONDS - 0.1)
    assert [await bearer(credentials) for _ in range(3)] == ["Bearer first"] * 3
    assert with_plugin.plugin_runs() == 1
    clock.advance(0.1)
    assert [await bearer(credentials) for _ in range(3)] == ["Bearer second"] * 3
    assert with_plugin.plugin_runs() == 2
    with_plugin.set_status({"token": "third"})
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer third"
    assert with_plugin.plugin_runs() == 3


async def test_concurrent_requests_run_plugin_once(with_plugin: KubeconfigFile, clock: Clock):
    credentials = await load(with_plugin, clock)
    with_plugin.set_status({"token": "second"})
    clock.advance(REFRESH_SECONDS)
    assert set(await asyncio.gather(*(bearer(credentials) for _ in range(20)))) <= {"Bearer first", "Bearer second"}
    assert with_plugin.plugin_runs() == 2
    assert await bearer(credentials) == "Bearer second"


@pytest.mark.parametrize("status", ["broken", "rubbish"])
async def test_failing_plugin_keeps_token_and_runs_again_after_a_minute(
    with_plugin: KubeconfigFile, clock: Clock, status: str
):
    credentials = await load(with_plugin, clock)
    with_plugin.set_status(status)
    clock.advance(REFRESH_SECONDS)
    assert [await bearer(credentials) for _ in range(2)] == ["Bearer first"] * 2
    assert with_plugin.plugin_runs() == 2
    with_plugin.set_status({"token": "second"})
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer second"


async def test_missing_plugin_keeps_token(with_plugin: KubeconfigFile, clock: Clock):
    credentials = await load(with_plugin, clock)
    with_plugin.write({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/plugin"}})
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer first"


@pytest.mark.parametrize(("life", "runs_again_after"), [(3600, 2880), (40, 32), (0, MIN_REFRESH_SECONDS)])
async def test_plugin_with_expiration_runs_again_before_it(
    with_plugin: KubeconfigFile, clock: Clock, life: float, runs_again_after: float
):
    """Until then its credential is kept, and the files are read all the same."""
    expires_at = datetime.now(UTC) + timedelta(seconds=life)
    with_plugin.set_status({"token": "first", "expirationTimestamp": expires_at.isoformat()})
    credentials = await load(with_plugin, clock)
    step = min(REFRESH_SECONDS, runs_again_after)
    elapsed = 0.0
    while with_plugin.plugin_runs() == 1:
        clock.advance(step / 4)
        elapsed += step / 4
        await bearer(credentials)
    assert runs_again_after - REFRESH_SECONDS / 4 - 1 <= elapsed <= runs_again_after + step


async def test_new_content_of_token_file_is_used_after_a_minute(with_file: KubeconfigFile, clock: Clock):
    credentials = await load(with_file, clock)
    with_file.token.write_text("second")
    clock.advance(REFRESH_SECONDS - 1)
    assert await bearer(credentials) == "Bearer first"
    clock.advance(1)
    assert await bearer(credentials) == "Bearer second"


@pytest.mark.parametrize("content", [None, "", "\n", "two\nlines"])
async def test_unusable_token_file_keeps_token_until_it_is_usable(
    with_file: KubeconfigFile, clock: Clock, content: str | None
):
    credentials = await load(with_file, clock)
    if content is None:
        with_file.token.unlink()
    else:
        with_file.token.write_text(content)
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer first"
    with_file.token.write_text("second")
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer second"


async def test_token_of_replaced_kubeconfig_is_used_after_a_minute(tmp_path: Path, clock: Clock):
    """While the file is missing or incomplete, the old token stays."""
    file = KubeconfigFile(tmp_path)
    file.write({"token": "first"})
    credentials = await load(file, clock)
    file.path.write_text("{")
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer first"
    file.path.unlink()
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer first"
    file.write({"token": "second"})
    clock.advance(REFRESH_SECONDS - 1)
    assert await bearer(credentials) == "Bearer first"
    clock.advance(1)
    assert await bearer(credentials) == "Bearer second"


async def test_token_for_another_server_is_not_used(tmp_path: Path, clock: Clock):
    """The old server must not learn the new server's token."""
    file = KubeconfigFile(tmp_path)
    file.write({"token": "first"})
    credentials = await load(file, clock)
    file.write({"token": "second"}, server="https://other:6443")
    clock.advance(REFRESH_SECONDS)
    assert await bearer(credentials) == "Bearer first"


# On a real server


@pytest.fixture
async def client(kubeconfig_file: KubeconfigFile, api_server: ApiServer) -> AsyncIterator[KubernetesClient]:
    """A client whose token comes from a file, and is accepted."""
    kubeconfig_file.token.write_text("first\n")
    kubeconfig_file.write({"tokenFile": str(kubeconfig_file.token)})
    api_server.accepted = {"Bearer first"}
    async with await open_client(kubeconfig_file) as opened:
        yield opened


async def test_newline_at_the_end_of_a_token_file_is_not_sent(client: KubernetesClient):
    assert (await client.list_all(PODS)).items == []


async def test_revoked_token_is_replaced_at_once(
    client: KubernetesClient, kubeconfig_file: KubeconfigFile, api_server: ApiServer
):
    await client.list_all(PODS)
    kubeconfig_file.token.write_text("second\n")
    api_server.accepted = {"Bearer second"}
    await client.list_all(PODS)
    assert [request.identity[0] for request in api_server.requests] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
    ]


async def test_watch_with_revoked_token_begins_with_the_new_one(
    client: KubernetesClient, kubeconfig_file: KubeconfigFile, api_server: ApiServer
):
    kubeconfig_file.token.write_text("second")
    api_server.accepted = {"Bearer second"}
    with pytest.raises(KubernetesError, match="not from Kubernetes"):  # the server's answer is a list
        _ = [events async for events in client.watch(PODS, "1")]
    assert [request.identity[0] for request in api_server.requests] == ["Bearer first", "Bearer second"]


async def test_single_401_is_repeated(client: KubernetesClient, api_server: ApiServer):
    """One API server of several may not know a new token yet."""
    api_server.answers = [(401, UNAUTHORIZED)]
    assert (await client.list_all(PODS)).items == []


async def test_lasting_401_is_raised_after_one_repetition(client: KubernetesClient, api_server: ApiServer):
    api_server.accepted = set()
    with pytest.raises(KubernetesError) as failure:
        await client.list_all(PODS)
    assert (failure.value.http_status, len(api_server.requests)) == (401, 2)


async def test_refused_requests_share_one_run_of_the_plugin(kubeconfig_file: KubeconfigFile, api_server: ApiServer):
    kubeconfig_file.write_plugin({"token": "first"})
    api_server.accepted = {"Bearer second"}
    async with await open_client(kubeconfig_file) as client:
        kubeconfig_file.set_status({"token": "second"})
        await asyncio.gather(*(client.list_all(PODS) for _ in range(20)))
        assert kubeconfig_file.plugin_runs() == 2
        api_server.accepted = set()
        await asyncio.gather(*(client.list_all(PODS) for _ in range(20)), return_exceptions=True)
    assert kubeconfig_file.plugin_runs() == 2  # MIN_REFRESH_SECONDS are not over


def status_of(api_server: ApiServer, name: str, **fields: Any) -> dict[str, Any]:
    """Return a plugin's status with a new client certificate."""
    certificate, key = api_server.authority.issue(name)
    return {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text(), **fields}


async def test_client_certificate_of_plugin_is_renewed_before_it_expires(
    kubeconfig_file: KubeconfigFile, api_server: ApiServer, clock: Clock
):
    expires_at = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()
    kubeconfig_file.write_plugin(status_of(api_server, "first", expirationTimestamp=expires_at))
    credentials = await load(kubeconfig_file, clock)
    before = await credentials.current()
    kubeconfig_file.set_status(status_of(api_server, "second"))
    clock.advance(20)
    assert await credentials.current() is before
    clock.advance(12)
    assert (await credentials.current()).tls is not before.tls


async def test_client_certificate_of_plugin_is_renewed_on_401(kubeconfig_file: KubeconfigFile, api_server: ApiServer):
    kubeconfig_file.write_plugin(status_of(api_server, "first"))
    api_server.accepted = {"first"}
    async with await open_client(kubeconfig_file) as client:
        await client.list_all(PODS)
        kubeconfig_file.set_status(status_of(api_server, "second"))
        api_server.accepted = {"second"}
        await client.list_all(PODS)
    assert [request.certificate for request in api_server.requests] == ["first", "first", "second"]


def count_open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_renewed_certificates_leave_no_files(
    kubeconfig_file: KubeconfigFile,
    api_server: ApiServer,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Neither an open file nor a private key stays behind."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    statuses = [status_of(api_server, name) for name in ("one", "two")]
    kubeconfig_file.write_plugin(statuses[0])
    credentials = await load(kubeconfig_file, clock)
    contexts = {(await credentials.current()).tls}
    open_files = count_open_files()
    for number in range(6):
        kubeconfig_file.set_status(statuses[number % 2])
        clock.advance(REFRESH_SECONDS)
        contexts.add((await credentials.current()).tls)
    assert len(contexts) == 6  # the first status was set twice
    assert count_open_files() == open_files
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_new_authority_is_read_at_once(kubeconfig_file: KubeconfigFile, api_server: ApiServer, tmp_path: Path):
    """The certificate of the server is of an authority that the old file lacks."""
    other = tmp_path / "other"
    other.mkdir()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(type(api_server.authority)(other).certificate.read_bytes())
    kubeconfig_file.write({"token": "first"}, certificate_authority=str(authority))
    api_server.accepted = {"Bearer first"}
    async with await open_client(kubeconfig_file) as client:
        with pytest.raises(KubernetesError, match="certificate verify failed"):
            await client.list_all(PODS)
    async with await open_client(kubeconfig_file) as client:
        authority.write_bytes(api_server.authority.certificate.read_bytes())
        await client.list_all(PODS)
