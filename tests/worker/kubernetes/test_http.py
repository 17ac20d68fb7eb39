"""Failures of requests: which error the client raises, and how long a refusal counts as temporary."""

from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from shared.settings import Settings
from tests.conftest import Clock
from tests.support.api_server import ApiServer
from tests.support.kubeconfig import KubeconfigFile
from tests.support.records import record_of
from tests.worker.conftest import Kubernetes
from tests.worker.kubernetes.conftest import open_client
from worker import manifests
from worker.kubernetes import retry
from worker.kubernetes.client import PODS, KubernetesClient
from worker.kubernetes.config import configuration
from worker.kubernetes.denials import LASTING_SECONDS
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["a" * 300, "a..b"], ids=["a label too long", "an empty label"])
async def test_exception_that_is_none_of_aiohttps_becomes_kubernetes_error(settings: Settings, host: str):
    """Here a UnicodeError. Nothing of a library leaves the client."""
    remote = msgspec.structs.replace(settings, k8s_api_server=f"http://{host}")
    async with KubernetesClient(await configuration(remote), "any", 10) as cluster:
        with pytest.raises(KubernetesError, match="idna"):
            await cluster.get_pod("any")
        async with aclosing(cluster.watch(PODS, "1")) as stream:
            with pytest.raises(KubernetesError, match="idna"):
                await anext(stream)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff" * 10, b""], ids=["too many levels", "wrong UTF-8", "empty"])
async def test_error_with_an_odd_body_keeps_its_status(
    api_server: ApiServer, kubeconfig_file: KubeconfigFile, body: bytes
):
    kubeconfig_file.write({"token": "t"})
    api_server.answers = [(422, body)]
    async with await open_client(kubeconfig_file) as client:
        with pytest.raises(KubernetesError) as failure:
            await client.get_pod("any")
    assert failure.value.http_status == 422


@pytest.mark.parametrize(
    "fault",
    [{"status": 403, "message": 'pods is forbidden: User "u" cannot create resource "pods"'}, {"status": 401}],
    ids=["403", "401"],
)
async def test_refusal_is_permanent_only_after_a_while(
    settings: Settings, kubernetes: Kubernetes, clock: Clock, fault: dict[str, Any]
):
    """A token or a Role may be on its way to the API server."""
    manifest = manifests.pod(record_of("abc"), settings)
    await kubernetes.set_faults({"kind": "error", "verb": "create", "resource": "pods", **fault})
    async with KubernetesClient(await configuration(settings), kubernetes.namespace, 10, clock=clock) as cluster:
        verdicts = []
        for _ in range(int(LASTING_SECONDS / 10) + 1):
            with pytest.raises(KubernetesError) as failure:
                await cluster.create_pod(manifest)
            verdicts.append(retry.is_retryable(failure.value))
            clock.advance(10)
        assert verdicts == [True] * (len(verdicts) - 1) + [False]
        await kubernetes.set_faults()
        await cluster.create_pod(manifest)
        await kubernetes.set_faults({"kind": "error", "verb": "create", "resource": "pods", **fault})
        with pytest.raises(KubernetesError) as failure:
            await cluster.create_pod(manifest)
        assert retry.is_retryable(failure.value)
