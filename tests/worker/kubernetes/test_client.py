import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.local.stack import free_port
from shared.settings import Settings
from tests.support.records import record_of, settings_of
from tests.worker.conftest import SECONDS, Kubernetes
from worker import manifests
from worker.kubernetes import manifest_types, retry
from worker.kubernetes.client import PAGE, PODS, KubernetesClient, WatchEvent
from worker.kubernetes.config import configuration
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, AlreadyExists, Expired, KubernetesError, NamespaceMissing
from worker.kubernetes.http import QUICK_TRIES
from worker.kubernetes.labels import SELECTOR
from worker.kubernetes.objects import Pod

pytestmark = pytest.mark.anyio

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"
CreatePod = Callable[..., Awaitable[Pod]]


@pytest.fixture
def wanted(settings: Settings) -> manifest_types.PodManifest:
    """A Pod of ours, not made yet."""
    return manifests.pod(record_of("abc"), settings)


@pytest.fixture
def create_pod(cluster: KubernetesClient, settings: Settings) -> CreatePod:
    """Makes the Pod of a sandbox id."""

    async def create(sandbox_id: str = "abc") -> Pod:
        return await cluster.create_pod(manifests.pod(record_of(sandbox_id), settings))

    return create


async def test_pod(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """A Pod is made, read, and deleted; what is read is what was made."""
    made = await create_pod()
    assert made.metadata.name == "sandbox-abc"
    assert made.metadata.uid
    read = await cluster.get_pod("sandbox-abc")
    assert read is not None
    assert (read.metadata.uid, read.metadata.labels) == (made.metadata.uid, made.metadata.labels)
    assert await cluster.delete_pod("sandbox-abc", made.metadata.uid)
    await kubernetes.until_empty()


async def test_service(cluster: KubernetesClient, create_pod: CreatePod, settings: Settings):
    """A Service's node port is in the answer of its create; it is read, with its owner, and deleted."""
    pod = await create_pod()
    made = await cluster.create_service(manifests.service(record_of("abc"), pod.metadata.uid, settings))
    assert made.node_port
    assert 30000 <= made.node_port <= 32767
    read = await cluster.get_service("sandbox-abc-svc")
    assert read is not None
    assert read.node_port == made.node_port
    assert [owner.uid for owner in read.metadata.owner_references] == [pod.metadata.uid]
    assert await cluster.delete_service("sandbox-abc-svc", read.metadata.uid)
    assert await cluster.get_service("sandbox-abc-svc") is None


async def test_a_service_without_node_port(cluster: KubernetesClient, environment: dict[str, str]):
    """A ClusterIP Service has none."""
    settings = settings_of(**environment, SANDBOX_SERVICE_TYPE="ClusterIP")
    made = await cluster.create_service(manifests.service(record_of("abc"), UNKNOWN_UID, settings))
    assert made.node_port is None


async def test_what_is_not_there(cluster: KubernetesClient):
    """Reading what is not there is no error; deleting it says so."""
    assert await cluster.get_pod("absent") is None
    assert await cluster.get_service("absent") is None
    assert not await cluster.delete_pod("absent", UNKNOWN_UID)
    assert not await cluster.delete_service("absent", UNKNOWN_UID)


async def test_delete_of_another_uid(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """A delete that names the uid of an earlier object of this name touches nothing."""
    await create_pod()
    assert not await cluster.delete_pod("sandbox-abc", UNKNOWN_UID)
    (pod,) = await kubernetes.found("pods")
    assert "deletionTimestamp" not in pod["metadata"]


async def test_name_taken(create_pod: CreatePod):
    """A second object of a name is refused as such."""
    await create_pod()
    with pytest.raises(AlreadyExists, match='pods "sandbox-abc" already exists'):
        await create_pod()


async def test_namespace(settings: Settings, wanted: manifest_types.PodManifest, kubernetes: Kubernetes):
    """A Pod in a namespace that is missing is refused as such; the namespace is made, and may be there already."""
    name = f"{kubernetes.namespace}-new"
    pod = msgspec.structs.replace(wanted, metadata=msgspec.structs.replace(wanted.metadata, namespace=name))
    async with KubernetesClient(await configuration(settings), name, 10) as cluster:
        with pytest.raises(NamespaceMissing, match=f'namespaces "{name}" not found'):
            await cluster.create_pod(pod)
        await cluster.create_namespace()
        await cluster.create_namespace()
        assert (await cluster.create_pod(pod)).metadata.uid
    await kubernetes.delete("namespaces", name)


async def test_list_has_ours_only(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """The list holds the Pods with our label, and the version it is of."""
    await kubernetes.made_pod("foreign")
    made = await create_pod()
    pods = await cluster.list_all(PODS)
    assert [pod.metadata.uid for pod in pods.items] == [made.metadata.uid]
    assert int(pods.resource_version) >= int(made.metadata.resource_version)


async def test_list_of_nothing(cluster: KubernetesClient):
    """No Pods are no error, and still of a version to watch from."""
    pods = await cluster.list_all(PODS)
    assert pods.items == []
    assert pods.resource_version


async def test_list_of_more_than_a_page(cluster: KubernetesClient, kubernetes: Kubernetes):
    """However many Pods there are, the list has each of them once."""
    key, _, value = SELECTOR.partition("=")
    names = {f"p{number}" for number in range(int(PAGE) + 1)}
    await kubernetes.misbehave({"kind": "slow-start", "seconds": 600})
    gate = asyncio.Semaphore(20)

    async def make(name: str) -> None:
        async with gate:
            await kubernetes.made_pod(name, labels={key: value})

    await asyncio.gather(*map(make, names))
    listed = [pod.metadata.name for pod in (await cluster.list_all(PODS)).items]
    assert len(listed) == len(names)
    assert set(listed) == names


# What goes wrong


@pytest.fixture
def wrong_token(settings: Settings, tmp_path: Path) -> Settings:
    """Of the same cluster, with a token that it does not know."""
    config = msgspec.json.decode(Path(settings.kubeconfig_path).read_bytes())
    config["users"][0]["user"]["token"] = "wrong"
    (tmp_path / "config").write_bytes(msgspec.json.encode(config))
    return settings_of(KUBECONFIG_PATH=str(tmp_path / "config"))


async def test_a_wrong_token(wrong_token: Settings, kubernetes: Kubernetes):
    """A token that is not the cluster's: 401, as Kubernetes says it."""
    async with KubernetesClient(await configuration(wrong_token), kubernetes.namespace, 10) as cluster:
        with pytest.raises(KubernetesError) as refused:
            await cluster.list_all(PODS)
    assert (refused.value.http_status, refused.value.reason) == (401, "Unauthorized")


async def test_an_invalid_pod(cluster: KubernetesClient, wanted: manifest_types.PodManifest):
    """What breaks a rule of Kubernetes: 422, with its words for what is wrong."""
    (sandbox,) = wanted.spec.containers
    twice = msgspec.structs.replace(sandbox, volume_mounts=sandbox.volume_mounts * 2)
    spec = msgspec.structs.replace(wanted.spec, containers=(twice,))
    with pytest.raises(KubernetesError, match="must be unique") as refused:
        await cluster.create_pod(msgspec.structs.replace(wanted, spec=spec))
    assert (refused.value.http_status, refused.value.reason) == (422, "Invalid")


async def test_a_full_quota(create_pod: CreatePod, kubernetes: Kubernetes):
    """A quota that is full: 403, and told from what is forbidden for good by Kubernetes' words."""
    await kubernetes.made("resourcequotas", "none", spec={"hard": {"pods": "0"}})
    with pytest.raises(KubernetesError, match="exceeded quota: none") as refused:
        await create_pod()
    assert refused.value.http_status == 403
    assert retry.is_retryable(refused.value)


async def test_no_answer_in_time(settings: Settings, kubernetes: Kubernetes):
    """A call that takes longer than it may ends, is said to have timed out, and is not tried again at once."""
    await kubernetes.misbehave({"kind": "delay", "seconds": 60, "verb": "list"})
    async with KubernetesClient(await configuration(settings), kubernetes.namespace, 0.2) as cluster:
        with pytest.raises(KubernetesError) as failed:
            await cluster.list_all(PODS)
    assert (failed.value.http_status, failed.value.reason) == (NO_ANSWER, TIMED_OUT)
    assert await kubernetes.struck() == [1]


async def test_nobody_listens(settings: Settings):
    """A server that is away is no answer, and temporary."""
    away = msgspec.structs.replace(settings, k8s_api_server=f"http://127.0.0.1:{free_port()}")
    async with KubernetesClient(await configuration(away), "any", 10) as cluster:
        with pytest.raises(KubernetesError) as failed:
            await cluster.get_pod("any")
    assert failed.value.http_status == NO_ANSWER
    assert retry.is_retryable(failed.value)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_blip(cluster: KubernetesClient, kubernetes: Kubernetes, status: int):
    """A call that fails quickly is tried again at once, and nobody notices."""
    await kubernetes.misbehave({"kind": "error", "status": status, "times": QUICK_TRIES - 1})
    assert (await cluster.list_all(PODS)).items == []
    assert await kubernetes.struck() == [QUICK_TRIES - 1]


async def test_trouble_that_stays(cluster: KubernetesClient, kubernetes: Kubernetes):
    """After a few quick tries a call fails with the server's own word: its job is put off, not kept waiting."""
    await kubernetes.misbehave({"kind": "error", "status": 503})
    with pytest.raises(KubernetesError) as failed:
        await cluster.list_all(PODS)
    assert (failed.value.http_status, failed.value.reason) == (503, "ServiceUnavailable")
    assert await kubernetes.struck() == [QUICK_TRIES]


@pytest.fixture
async def gibberish() -> AsyncIterator[str]:
    """URL of a server that is no Kubernetes: to whatever it is asked it answers 200, with a page for people."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 19\r\n\r\n<html>hello</html>\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_answer_that_is_no_json(settings: Settings, gibberish: str):
    """What a proxy before Kubernetes answers in its place is a failure of the call, like any other."""
    elsewhere = msgspec.structs.replace(settings, k8s_api_server=gibberish)
    async with KubernetesClient(await configuration(elsewhere), "any", 10) as cluster:
        with pytest.raises(KubernetesError):
            await cluster.list_all(PODS)
        with pytest.raises(KubernetesError):
            await cluster.get_pod("any")
        async with aclosing(cluster.watch(PODS, "1")) as events:
            with pytest.raises(KubernetesError):
                await until(events, "ADDED")


@pytest.mark.parametrize(
    ("scheme", "bypassed", "who_answers"),
    [("http:", "", "proxy"), ("http:", "kubernetes.test", "nobody"), ("https:", "", "nobody")],
)
async def test_the_environments_proxy(
    settings: Settings, gibberish: str, monkeypatch: pytest.MonkeyPatch, scheme: str, bypassed: str, who_answers: str
):
    """It is what calls go to, unless NO_PROXY names the server, or it is one that is spoken to in TLS."""
    monkeypatch.setenv("http_proxy", gibberish.replace("http:", scheme))
    monkeypatch.setenv("no_proxy", bypassed)
    elsewhere = msgspec.structs.replace(settings, k8s_api_server="http://kubernetes.test")
    async with KubernetesClient(await configuration(elsewhere), "any", 10) as cluster:
        with pytest.raises(KubernetesError) as failed:
            await cluster.get_pod("any")
    assert ("not Kubernetes" in failed.value.message) == (who_answers == "proxy")


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (503, 3)])
async def test_retry_after(cluster: KubernetesClient, kubernetes: Kubernetes, status: int, seconds: int):
    """A server that says when to come back is not asked before: no quick try, and its word goes with the error."""
    await kubernetes.misbehave({"kind": "error", "status": status, "retry_after": seconds})
    with pytest.raises(KubernetesError) as failed:
        await cluster.list_all(PODS)
    assert (failed.value.http_status, failed.value.retry_after) == (status, seconds)
    assert await kubernetes.struck() == [1]


async def test_an_answer_that_is_not_kubernetes(cluster: KubernetesClient, kubernetes: Kubernetes):
    """Text instead of a Status, as a proxy has it or the server's own 429, ends up in the message."""
    await kubernetes.misbehave({"kind": "error", "status": 429})
    with pytest.raises(KubernetesError, match="Too many requests, please try again later"):
        await cluster.list_all(PODS)


async def test_a_connection_lost_before_the_write(create_pod: CreatePod, kubernetes: Kubernetes):
    """Lost before it had its effect, a call is made again: one Pod."""
    await kubernetes.misbehave({"kind": "reset", "verb": "create", "times": 1})
    await create_pod()
    assert await kubernetes.names("pods") == ["sandbox-abc"]


@pytest.mark.parametrize("lost", [{"kind": "reset"}, {"kind": "error", "status": 500}], ids=["reset", "500"])
async def test_an_answer_lost_after_the_write(create_pod: CreatePod, kubernetes: Kubernetes, lost: dict[str, Any]):
    """Lost after it had its effect, a create made again finds its own Pod: there is one, and the caller can look."""
    await kubernetes.misbehave({**lost, "verb": "create", "after": True, "times": 1})
    with pytest.raises(AlreadyExists):
        await create_pod()
    assert await kubernetes.names("pods") == ["sandbox-abc"]


async def test_the_answer_of_a_delete_lost(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """A delete made again, because its answer was lost, succeeds: the Pod is going."""
    pod = await create_pod()
    await kubernetes.misbehave({"kind": "reset", "verb": "delete", "after": True, "times": 1})
    await cluster.delete_pod("sandbox-abc", pod.metadata.uid)
    await kubernetes.until_empty()


# Watching


async def until(stream: AsyncIterator[list[WatchEvent[Pod]]], type_: str) -> list[WatchEvent[Pod]]:
    """What comes up to the first event of this type."""
    seen: list[WatchEvent[Pod]] = []
    async with asyncio.timeout(SECONDS):
        async for events in stream:
            assert events
            for event in events:
                seen.append(event)
                if event.type == type_:
                    return seen
    return pytest.fail(f"the watch ended before {type_}: {seen}")


async def test_watch(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """A watch tells one Pod's life from the version on that it is asked from; of others' Pods it says nothing."""
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.made_pod("foreign")
    pod = await create_pod()
    await kubernetes.ready("sandbox-abc")
    await cluster.delete_pod("sandbox-abc", pod.metadata.uid)
    async with aclosing(cluster.watch(PODS, version)) as events:
        seen = await until(events, "DELETED")
    assert {event.object.metadata.uid for event in seen} == {pod.metadata.uid}
    assert [event.type for event in seen] == ["ADDED", *["MODIFIED"] * (len(seen) - 2), "DELETED"]
    assert any(event.object.is_condition_true("Ready") for event in seen)
    versions = [int(event.object.metadata.resource_version) for event in seen]
    assert versions == sorted(set(versions))


async def test_a_watch_of_a_large_pod(cluster: KubernetesClient, kubernetes: Kubernetes):
    """A Pod as large as its annotations may be, 256 KiB, is an event like any other."""
    key, _, value = SELECTOR.partition("=")
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.made_pod("large", labels={key: value}, annotations={"large": "x" * 250 * 1024})
    async with aclosing(cluster.watch(PODS, version)) as events:
        (added,) = await until(events, "ADDED")
    assert added.object.metadata.name == "large"


async def test_a_watch_goes_on_where_the_last_one_ended(
    cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes
):
    """From the last version seen, nothing is told twice and nothing is left out."""
    version = (await cluster.list_all(PODS)).resource_version
    await create_pod()
    await kubernetes.ready("sandbox-abc")
    async with aclosing(cluster.watch(PODS, version)) as events:
        (added,) = await until(events, "ADDED")
    async with aclosing(cluster.watch(PODS, added.object.metadata.resource_version)) as events:
        (following,) = await until(events, "MODIFIED")
    assert int(following.object.metadata.resource_version) > int(added.object.metadata.resource_version)


async def test_a_watch_that_the_server_ends(cluster: KubernetesClient, kubernetes: Kubernetes):
    """The regular end of a stream is no error."""
    version = (await cluster.list_all(PODS)).resource_version
    await kubernetes.misbehave({"kind": "watch-close", "seconds": 0})
    async with aclosing(cluster.watch(PODS, version)) as events:
        assert [event async for some in events for event in some if event.type != "BOOKMARK"] == []


async def test_what_has_come_is_one_list(cluster: KubernetesClient, create_pod: CreatePod):
    """Whoever is behind a watch gets what it missed together, in order, and all of it."""
    version = (await cluster.list_all(PODS)).resource_version
    for number in range(40):
        await create_pod(f"s{number}")
    lists = []
    async with asyncio.timeout(SECONDS), aclosing(cluster.watch(PODS, version)) as stream:
        async for events in stream:
            lists.append([event.object.metadata.name for event in events if event.type == "ADDED"])
            if sum(map(len, lists)) == 40:
                break
    assert [name for names in lists for name in names] == [f"sandbox-s{number}" for number in range(40)]
    assert len(lists) < 40


async def test_a_line_that_cannot_be_read(cluster: KubernetesClient, monkeypatch: pytest.MonkeyPatch):
    """What came before it counts."""
    good = b'{"type": "MODIFIED", "object": {"metadata": {"name": "a", "resourceVersion": "5"}}}'

    async def lines(*_: Any, **__: Any) -> AsyncIterator[list[bytes]]:
        yield [good, good, b'{"type": "MODIFIED", "object": {"metadata": {"name": 7}}}', good]

    monkeypatch.setattr(cluster._server, "lines", lines)
    stream = cluster.watch(PODS, "1")
    assert [event.object.metadata.name for event in await anext(stream)] == ["a", "a"]
    with pytest.raises(KubernetesError):
        await anext(stream)


async def test_a_watch_from_too_long_ago(cluster: KubernetesClient, create_pod: CreatePod, kubernetes: Kubernetes):
    """410 comes as an event of a stream that began well, and is raised as Expired."""
    version = (await cluster.list_all(PODS)).resource_version
    await create_pod()
    assert (await kubernetes.call("POST", "/emulator/expire")).status == 200
    async with aclosing(cluster.watch(PODS, version)) as events:
        with pytest.raises(Expired, match="too old resource version"):
            await until(events, "ADDED")


async def test_a_watch_that_is_refused(cluster: KubernetesClient, kubernetes: Kubernetes):
    """A stream that does not begin fails as any other call does."""
    await kubernetes.misbehave({"kind": "error", "status": 503, "verb": "watch"})
    async with aclosing(cluster.watch(PODS, "1")) as events:
        with pytest.raises(KubernetesError) as failed:
            await until(events, "ADDED")
    assert failed.value.http_status == 503


async def test_a_watch_whose_connection_is_cut(cluster: KubernetesClient, kubernetes: Kubernetes):
    """A stream that breaks in the middle is an error, and temporary; it is never taken for a regular end."""
    version = (await cluster.list_all(PODS)).resource_version

    async def follow() -> list[WatchEvent[Pod]]:
        async with aclosing(cluster.watch(PODS, version)) as events:
            return [event async for some in events for event in some]

    async def opened() -> bool:
        return bool((await kubernetes.call("GET", "/emulator/calls")).body.get("watch pods"))

    await kubernetes.call("DELETE", "/emulator/calls")
    watching = asyncio.create_task(follow())
    await kubernetes.until(opened, SECONDS)
    await kubernetes.misbehave({"kind": "unavailable"})
    with pytest.raises(KubernetesError) as failed:
        async with asyncio.timeout(SECONDS):
            await watching
    assert failed.value.http_status == NO_ANSWER
    assert retry.is_retryable(failed.value)
