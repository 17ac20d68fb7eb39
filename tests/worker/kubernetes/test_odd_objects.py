"""Objects that cannot be decoded, in lists and watches of the client."""

from contextlib import aclosing

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.settings import Settings
from tests.support.canned import serving_body
from tests.support.counts import Counts
from worker.kubernetes.client import PODS, KubernetesClient
from worker.kubernetes.config import configuration

pytestmark = pytest.mark.anyio


def odd_pod(uid: str) -> bytes:
    return b'{"metadata": {"name": "odd", "uid": "%b"}, "status": {"phase": 7}}' % uid.encode()


async def test_odd_object_in_a_watch_is_skipped_but_not_its_deletion(settings: Settings):
    """A deletion without a uid is found by the next list."""
    good = b'{"type": "ADDED", "object": {"metadata": {"name": "good", "uid": "good"}}}'
    lines = [b'{"type": "%b", "object": %b}' % (kind, odd_pod("odd")) for kind in (b"ADDED", b"MODIFIED", b"DELETED")]
    lines += [
        b'{"type": "DELETED", "object": %b}' % odd_pod(""),
        b'{"type": "BOOKMARK", "object": {"metadata": 7}}',
        good,
    ]
    async with serving_body(b"\n".join(lines)) as url:
        local = await configuration(msgspec.structs.replace(settings, k8s_api_server=url))
        async with KubernetesClient(local, "any", 10) as cluster, aclosing(cluster.watch(PODS, "1")) as stream:
            events = [event async for events in stream for event in events]
    assert [(event.type, event.object.metadata.uid) for event in events] == [("DELETED", "odd"), ("ADDED", "good")]


async def test_odd_object_in_a_list_is_counted_each_time_and_logged_once(settings: Settings):
    page = b'{"metadata": {"resourceVersion": "1"}, "items": [%b, {"metadata": {"name": "good", "uid": "good"}}]}'
    async with serving_body(page % odd_pod("odd")) as url:
        local = await configuration(msgspec.structs.replace(settings, k8s_api_server=url))
        async with KubernetesClient(local, "any", 10) as cluster:
            counts = Counts()
            with capture_logs() as logs:
                lists = [await cluster.list_all(PODS) for _ in range(3)]
                assert await cluster.version(PODS) == "1"
    assert counts.gained()["deerflow_unreadable_objects_total", "pods"] == 4
    assert [(line["name"], line["uid"]) for line in logs if line["event"] == "unreadable object skipped"] == [
        ("odd", "odd")
    ]
    assert [(pods.uids, pods.is_complete, len(pods.items)) for pods in lists] == [({"good", "odd"}, True, 1)] * 3


async def test_list_with_an_object_without_uid_is_incomplete(settings: Settings):
    async with serving_body(b'{"metadata": {"resourceVersion": "1"}, "items": [%b]}' % odd_pod("")) as url:
        local = await configuration(msgspec.structs.replace(settings, k8s_api_server=url))
        async with KubernetesClient(local, "any", 10) as cluster:
            assert not (await cluster.list_all(PODS)).is_complete
