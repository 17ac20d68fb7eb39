import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.local.stack import free_port
from shared.settings import Settings
from tests.support.canned import serving_body
from tests.support.eventually import SECONDS, within
from tests.support.records import record_of, settings_of
from tests.worker.conftest import Kubernetes
from worker import manifests
from worker.kubernetes import manifest_types, retry
from worker.kubernetes.client import PAGE, PODS, KubernetesClient, WatchEvent
from worker.kubernetes.config import configuration
from worker.kubernetes.errors import (
    NO_ANSWER,
    NOT_KUBERNETES,
    TIMED_OUT,
    AlreadyExists,
    Expired,
    KubernetesError,
    NamespaceMissing,
)
from worker.kubernetes.http import MAX_TRIES
from worker.kubernetes.labels import SELECTOR
from worker.kubernetes.objects import Pod

pytestmark = pytest.mark.anyio

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"
CreatePod = Callable[..., Awaitable[Pod]]


@pytest.fixture
def manifest(settings: Settings) -> manifest_types.PodManifest:
    """The manifest of a Pod that does not exist yet."""
    return manifests.pod(record_of("abc"), settings)


@pytest.fixture
def create_pod(cluster: KubernetesClient, settings: Settings) -> CreatePod:
    """Creates the Pod of a sandbox id."""

    async def create(sandbox_id: str = "abc") -> Pod:
        return await cluster.create_pod(manifests.pod(record_of(sandbox_id), settings))

    return create


async def test_created_pod_can_be_read_and_deleted(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    pod = await create_pod()
    assert pod.metadata.name == "sandbox-abc"
    assert pod.metadata.uid
    read = await cluster.get_pod("sandbox-abc")
    assert read is not None
    assert (read.metadata.uid, read.metadata.labels) == (pod.metadata.uid, pod.metadata.labels)
    assert await cluster.delete_pod("sandbox-abc", pod.metadata.uid)
    await kubernetes.until_empty()


async def test_created_service_has_node_port_and_owner(
    cluster: KubernetesClient, create_pod: CreatePod, settings: Settings
):
    """The answer of the create holds the node port, so no other request is needed for the URL."""
    pod = await create_pod()
    service = await cluster.create_service(manifests.service(record_of("abc"), pod.metadata.uid, settings))
    assert service.node_port
    assert 30000 <= service.node_port <= 32767
    read = await cluster.get_service("sandbox-abc-svc")
    assert read is not None
    assert read.node_port == service.node_port
    assert [owner.uid for owner in read.metadata.owner_references] == [pod.metadata.uid]
    assert await cluster.delete_service("sandbox-abc-svc", read.metadata.uid)
    assert await cluster.get_service("sandbox-abc-svc") is None


async def test_cluster_ip_service_has_no_node_port(cluster: KubernetesClient, environment: dict[str, str]):
    settings = settings_of(**environment, SANDBOX_SERVICE_TYPE="ClusterIP")
    service = await cluster.create_service(manifests.service(record_of("abc"), UNKNOWN_UID, settings))
    assert service.node_port is None


async def test_missing_object_reads_as_none_and_deletes_as_false(cluster: KubernetesClient):
    assert await cluster.get_pod("absent") is None
    assert await cluster.get_service("absent") is None
    assert not await cluster.delete_pod("absent", UNKNOWN_UID)
    assert not await cluster.delete_service("absent", UNKNOWN_UID)


async def test_delete_with_another_uid_changes_nothing(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    """The uid of an earlier object with this name must not delete the present one."""
    await create_pod()
    assert not await cluster.delete_pod("sandbox-abc", UNKNOWN_UID)
    (pod,) = await kubernetes.list_objects("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_create_with_existing_name_raises_already_exists(create_pod: CreatePod):
    await create_pod()
    with pytest.raises(AlreadyExists, match='pods "sandbox-abc" already exists'):
        await create_pod()


async def test_create_in_missing_namespace_raises_until_it_is_created(
    settings: Settings, manifest: manifest_types.PodManifest, kubernetes: Kubernetes
):
    """Creating the namespace twice is no error."""
    name = f"{kubernetes.namespace}-new"
    pod = msgspec.structs.replace(manifest, metadata=msgspec.structs.replace(manifest.metadata, namespace=name))
    async with KubernetesClient(await configuration(settings), name, 10) as cluster:
        with pytest.raises(NamespaceMissing, match=f'namespaces "{name}" not found'):
            await cluster.create_pod(pod)
        await cluster.create_namespace()
        await cluster.create_namespace()
        assert (await cluster.create_pod(pod)).metadata.uid
    await kubernetes.delete("namespaces", name)


async def test_list_returns_labelled_pods_and_version(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    await kubernetes.create_pod("foreign")
    pod = await create_pod()
    pods = await cluster.list_all(PODS)
    assert [listed.metadata.uid for listed in pods.items] == [pod.metadata.uid]
    assert int(pods.resource_version) >= int(pod.metadata.resource_version)


async def test_list_without_pods_returns_version(cluster: KubernetesClient):
    """A watch starts from that version."""
    pods = await cluster.list_all(PODS)
    assert pods.items == []
    assert pods.resource_version


async def test_list_longer_than_a_page_returns_each_pod_once(cluster: KubernetesClient, kubernetes: Kubernetes):
    key, _, value = SELECTOR.partition("=")
    names = {f"p{number}" for number in range(int(PAGE) + 1)}
    await kubernetes.set_faults({"kind": "slow-start", "seconds": 600})
    gate = asyncio.Semaphore(20)

    async def create(name: str) -> None:
        async with gate:
            await kubernetes.create_pod(name, labels={key: value})

    await asyncio.gather(*map(create, names))
    listed = [pod.metadata.name for pod in (await cluster.list_all(PODS)).items]
    assert len(listed) == len(names)
    assert set(listed) == names


# Errors


@pytest.fixture
def wrong_token(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of the same cluster with a token that the cluster does not know."""
    config = msgspec.json.decode(Path(settings.kubeconfig_path).read_bytes())
    config["users"][0]["user"]["token"] = "wrong"
    (tmp_path / "config").write_bytes(msgspec.json.encode(config))
    return settings_of(KUBECONFIG_PATH=str(tmp_path / "config"))


async def test_wrong_token_raises_401(wrong_token: Settings, kubernetes: Kubernetes):
    async with KubernetesClient(await configuration(wrong_token), kubernetes.namespace, 10) as cluster:
        with pytest.raises(KubernetesError) as failure:
            await cluster.list_all(PODS)
    assert (failure.value.http_status, failure.value.reason) == (401, "Unauthorized")


async def test_invalid_pod_raises_422_with_kubernetes_message(
    cluster: KubernetesClient, manifest: manifest_types.PodManifest
):
    (sandbox,) = manifest.spec.containers
    doubled = msgspec.structs.replace(sandbox, volume_mounts=sandbox.volume_mounts * 2)
    spec = msgspec.structs.replace(manifest.spec, containers=(doubled,))
    with pytest.raises(KubernetesError, match="must be unique") as failure:
        await cluster.create_pod(msgspec.structs.replace(manifest, spec=spec))
    assert (failure.value.http_status, failure.value.reason) == (422, "Invalid")


async def test_full_quota_raises_retryable_403(create_pod: CreatePod, kubernetes: Kubernetes):
    """Kubernetes' message distinguishes a full quota from a missing permission."""
    await kubernetes.create_object("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    with pytest.raises(KubernetesError, match="exceeded quota: none") as failure:
        await create_pod()
    assert failure.value.http_status == 403
    assert retry.is_retryable(failure.value)


async def test_slow_answer_raises_timed_out_without_retry(settings: Settings, kubernetes: Kubernetes):
    await kubernetes.set_faults({"kind": "delay", "seconds": 60, "verb": "list"})
    async with KubernetesClient(await configuration(settings), kubernetes.namespace, 0.2) as cluster:
        with pytest.raises(KubernetesError) as failure:
            await cluster.list_all(PODS)
    assert (failure.value.http_status, failure.value.reason) == (NO_ANSWER, TIMED_OUT)
    assert await kubernetes.count_faults() == [1]


async def test_refused_connection_raises_retryable_error(settings: Settings):
    unreachable = msgspec.structs.replace(settings, k8s_api_server=f"http://127.0.0.1:{free_port()}")
    async with KubernetesClient(await configuration(unreachable), "any", 10) as cluster:
        with pytest.raises(KubernetesError) as failure:
            await cluster.get_pod("any")
    assert failure.value.http_status == NO_ANSWER
    assert retry.is_retryable(failure.value)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_transient_error_is_retried(cluster: KubernetesClient, kubernetes: Kubernetes, status: int):
    await kubernetes.set_faults({"kind": "error", "status": status, "times": MAX_TRIES - 1})
    assert (await cluster.list_all(PODS)).items == []
    assert await kubernetes.count_faults() == [MAX_TRIES - 1]


async def test_lasting_error_is_raised_after_max_tries(cluster: KubernetesClient, kubernetes: Kubernetes):
    """The job is retried later, and does not wait inside the call."""
    await kubernetes.set_faults({"kind": "error", "status": 503})
    with pytest.raises(KubernetesError) as failure:
        await cluster.list_all(PODS)
    assert (failure.value.http_status, failure.value.reason) == (503, "ServiceUnavailable")
    assert await kubernetes.count_faults() == [MAX_TRIES]


@pytest.fixture
async def html_server() -> AsyncIterator[str]:
    """URL of a server that is not Kubernetes, for example a proxy."""
    async with serving_body(b"<html>hello</html>\n") as url:
        yield url


async def test_answer_that_is_not_json_raises_kubernetes_error(settings: Settings, html_server: str):
    proxied = msgspec.structs.replace(settings, k8s_api_server=html_server)
    async with KubernetesClient(await configuration(proxied), "any", 10) as cluster:
        with pytest.raises(KubernetesError):
            await cluster.list_all(PODS)
        with pytest.raises(KubernetesError):
            await cluster.get_pod("any")
        async with aclosing(cluster.watch(PODS, "1")) as stream:
            with pytest.raises(KubernetesError):
                await collect_until(stream, "ADDED")


@pytest.mark.parametrize(("excluded", "is_used"), [("", True), ("kubernetes.test", False)], ids=["proxy", "NO_PROXY"])
async def test_proxy_of_environment_is_used_unless_excluded(
    settings: Settings, html_server: str, monkeypatch: pytest.MonkeyPatch, excluded: str, is_used: bool
):
    monkeypatch.setenv("http_proxy", html_server)
    monkeypatch.setenv("no_proxy", excluded)
    remote = msgspec.structs.replace(settings, k8s_api_server="http://kubernetes.test")
    async with KubernetesClient(await configuration(remote), "any", 10) as cluster:
        with pytest.raises(KubernetesError) as failure:
            await cluster.get_pod("any")
    assert (failure.value.reason == NOT_KUBERNETES) == is_used


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (503, 3)])
async def test_retry_after_prevents_retries_and_is_reported(
    cluster: KubernetesClient, kubernetes: Kubernetes, status: int, seconds: int
):
    await kubernetes.set_faults({"kind": "error", "status": status, "retry_after": seconds})
    with pytest.raises(KubernetesError) as failure:
        await cluster.list_all(PODS)
    assert (failure.value.http_status, failure.value.retry_after) == (status, seconds)
    assert await kubernetes.count_faults() == [1]


async def test_error_text_instead_of_status_becomes_message(cluster: KubernetesClient, kubernetes: Kubernetes):
    """A proxy answers so, and the API server itself with 429."""
    await kubernetes.set_faults({"kind": "error", "status": 429})
    with pytest.raises(KubernetesError, match="Too many requests, please try again later"):
        await cluster.list_all(PODS)


async def test_connection_lost_before_create_is_retried(create_pod: CreatePod, kubernetes: Kubernetes):
    await kubernetes.set_faults({"kind": "reset", "verb": "create", "times": 1})
    await create_pod()
    assert await kubernetes.names("pods") == ["sandbox-abc"]


@pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "error", "status": 500}], ids=["reset", "500"])
async def test_answer_lost_after_create_raises_already_exists(
    create_pod: CreatePod, kubernetes: Kubernetes, fault: dict[str, Any]
):
    """The retry finds the Pod of the first try. There is one Pod, and the caller can read it."""
    await kubernetes.set_faults({**fault, "verb": "create", "after": True, "times": 1})
    with pytest.raises(AlreadyExists):
        await create_pod()
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_answer_lost_after_delete_is_retried(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    pod = await create_pod()
    await kubernetes.set_faults({"kind": "reset", "verb": "delete", "after": True, "times": 1})
    await cluster.delete_pod("sandbox-abc", pod.metadata.uid)
    await kubernetes.until_empty()


# Watch


async def collect_until(stream: AsyncIterator[list[WatchEvent[Pod]]], type_: str) -> list[WatchEvent[Pod]]:
    """Return all events up to the first of this type."""
    collected: list[WatchEvent[Pod]] = []
    async with asyncio.timeout(SECONDS):
        async for events in stream:
            assert events
            for event in events:
                collected.append(event)
                if event.type == type_:
                    return collected
    return pytest.fail(f"the watch ended before {type_}: {collected}")


async def test_watch_yields_events_of_labelled_pods_in_order(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.create_pod("foreign")
    pod = await create_pod()
    await kubernetes.ready("sandbox-abc")
    await cluster.delete_pod("sandbox-abc", pod.metadata.uid)
    async with aclosing(cluster.watch(PODS, version)) as stream:
        events = await collect_until(stream, "DELETED")
    assert {event.object.metadata.uid for event in events} == {pod.metadata.uid}
    assert [event.type for event in events] == ["ADDED", *["MODIFIED"] * (len(events) - 2), "DELETED"]
    assert any(event.object.is_condition_true("Ready") for event in events)
    versions = [int(event.object.metadata.resource_version) for event in events]
    assert versions == sorted(set(versions))


async def test_watch_of_large_pod_yields_event(cluster: KubernetesClient, kubernetes: Kubernetes):
    """Kubernetes allows 256 KiB of annotations, more than aiohttp's default line length."""
    key, _, value = SELECTOR.partition("=")
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.create_pod("large", labels={key: value}, annotations={"large": "x" * 250 * 1024})
    async with aclosing(cluster.watch(PODS, version)) as stream:
        (event,) = await collect_until(stream, "ADDED")
    assert event.object.metadata.name == "large"


async def test_watch_from_last_version_continues_without_gap_or_repetition(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    version = (await cluster.list_all(PODS)).resource_version
    await create_pod()
    await kubernetes.ready("sandbox-abc")
    async with aclosing(cluster.watch(PODS, version)) as stream:
        (first,) = await collect_until(stream, "ADDED")
    async with aclosing(cluster.watch(PODS, first.object.metadata.resource_version)) as stream:
        (second,) = await collect_until(stream, "MODIFIED")
    assert int(second.object.metadata.resource_version) > int(first.object.metadata.resource_version)


async def test_watch_closed_by_server_ends_without_error(cluster: KubernetesClient, kubernetes: Kubernetes):
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.set_faults({"kind": "watch-close", "seconds": 0})
    async with aclosing(cluster.watch(PODS, version)) as stream:
        assert [event async for events in stream for event in events if event.type != "BOOKMARK"] == []


async def test_watch_from_old_version_yields_missed_events_in_batches(cluster: KubernetesClient, create_pod: CreatePod):
    version = (await cluster.list_all(PODS)).resource_version
    for number in range(40):
        await create_pod(f"s{number}")
    batches = []
    async with asyncio.timeout(SECONDS), aclosing(cluster.watch(PODS, version)) as stream:
        async for events in stream:
            batches.append([event.object.metadata.name for event in events if event.type == "ADDED"])
            if sum(map(len, batches)) == 40:
                break
    assert [name for names in batches for name in names] == [f"sandbox-s{number}" for number in range(40)]
    assert len(batches) < 40


async def test_watch_with_undecodable_line_yields_earlier_events_then_raises(settings: Settings):
    good = b'{"type": "MODIFIED", "object": {"metadata": {"name": "a", "uid": "a", "resourceVersion": "5"}}}'
    bad = b'{"type": "MODIFIED", "object": {"metadata": {"name": "a"}'
    async with serving_body(b"\n".join([good, good, bad, good])) as url:
        local = await configuration(msgspec.structs.replace(settings, k8s_api_server=url))
        async with KubernetesClient(local, "any", 10) as cluster, aclosing(cluster.watch(PODS, "1")) as stream:
            assert [event.object.metadata.name for event in await anext(stream)] == ["a", "a"]
            with pytest.raises(KubernetesError):
                await anext(stream)


async def test_watch_from_expired_version_raises_expired(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    """Kubernetes sends the 410 as an event of a stream with status 200."""
    version = (await cluster.list_all(PODS)).resource_version
    await create_pod()
    assert (await kubernetes.call("POST", "/emulator/expire")).status == 200
    async with aclosing(cluster.watch(PODS, version)) as stream:
        with pytest.raises(Expired, match="too old resource version"):
            await collect_until(stream, "ADDED")


async def test_refused_watch_raises_error(cluster: KubernetesClient, kubernetes: Kubernetes):
    await kubernetes.set_faults({"kind": "error", "status": 503, "verb": "watch"})
    async with aclosing(cluster.watch(PODS, "1")) as stream:
        with pytest.raises(KubernetesError) as failure:
            await collect_until(stream, "ADDED")
    assert failure.value.http_status == 503


async def test_watch_with_broken_connection_raises_retryable_error(cluster: KubernetesClient, kubernetes: Kubernetes):
    """A broken connection must not look like a watch that the server closed."""
    version = (await cluster.list_all(PODS)).resource_version

    async def watch() -> list[WatchEvent[Pod]]:
        async with aclosing(cluster.watch(PODS, version)) as stream:
            return [event async for events in stream for event in events]

    async def is_open() -> bool:
        return bool((await kubernetes.call("GET", "/emulator/calls")).body.get("watch pods"))

    await kubernetes.call("DELETE", "/emulator/calls")
    watching = asyncio.create_task(watch())
    await kubernetes.until(is_open, SECONDS)
    await kubernetes.set_faults({"kind": "unavailable"})
    with pytest.raises(KubernetesError) as failure:
        await within(watching)
    assert failure.value.http_status == NO_ANSWER
    assert retry.is_retryable(failure.value)
