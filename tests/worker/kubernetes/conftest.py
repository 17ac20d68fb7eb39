"""An API server over TLS, and a kubeconfig for it."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer, serving
from tests.support.kubeconfig import KubeconfigFile
from tests.support.records import settings_of
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.config import configuration


@pytest.fixture
async def api_server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    (tmp_path / "tls").mkdir()
    async with serving(tmp_path / "tls") as server:
        yield server


@pytest.fixture
def kubeconfig_file(tmp_path: Path, api_server: ApiServer) -> KubeconfigFile:
    """A kubeconfig of the API server, not written yet."""
    return KubeconfigFile(tmp_path, server=api_server.url, certificate_authority=str(api_server.authority.certificate))


async def open_client(
    file: KubeconfigFile, *, clock: Callable[[], float] = time.monotonic, **settings: str
) -> KubernetesClient:
    """Open a client with this kubeconfig, as a worker does."""
    config = await configuration(settings_of(KUBECONFIG_PATH=str(file.path), **settings))
    return KubernetesClient(config, "any", 5, clock=clock)
