"""The cache of Pods: the latest version of each, and the times at which stages were first seen."""

from typing import Any

from shared.sandbox.record import Timings
from worker.kubernetes.labels import INCARNATION, SANDBOX_ID
from worker.kubernetes.objects import Condition, ObjectMeta, Pod, PodSpec, PodStatus
from worker.reflectors.pod_cache import PodCache

UID = "uid-1"


def pod(phase: str = "Pending", *, node: str = "node-1", ready: bool = False, uid: str = UID, **metadata: Any) -> Pod:
    labels = {SANDBOX_ID: "abc", INCARNATION: "1-0a1b2c3d"}
    conditions = (Condition(type="Ready", status="True"),) if ready else ()
    return Pod(
        metadata=ObjectMeta(**{"name": "sandbox-abc", "uid": uid, "labels": labels, **metadata}),
        spec=PodSpec(node_name=node),
        status=PodStatus(phase=phase, conditions=conditions),
    )


def test_first_times_are_those_of_arrival_though_later_versions_lack_the_stage():
    cache = PodCache()
    cache.put(pod(node=""), 1)
    cache.put(pod(), 2)
    cache.put(pod("Running"), 3)
    cache.put(pod("Running", ready=True), 4)
    cached = cache.put(pod("Running"), 5)
    assert cached is not None
    assert cached.first_seen == Timings(scheduled=2, running=3, ready=4)
    assert not cached.pod.is_condition_true("Ready")


def test_outcome_outlives_the_delete():
    """A terminating Pod no longer shows that it was evicted."""
    cache = PodCache()
    failed = pod("Failed")
    cache.put(failed, 1)
    cache.put(pod("Failed", deletion_timestamp="2026-11-27T00:00:00Z"), 2)
    cached = cache.mark_deleted(UID)
    assert cached is not None
    assert cached.is_deleted
    assert cached.outcome == failed


def test_deleted_pod_stays_until_it_is_dropped():
    cache = PodCache()
    cache.put(pod(), 1)
    cache.mark_deleted(UID)
    assert cache.get(UID) is not None
    cache.drop(UID)
    cache.drop(UID)
    assert cache.get(UID) is None
    assert cache.mark_deleted(UID) is None


def test_pod_missing_in_a_list_is_marked_deleted():
    cache = PodCache()
    cache.put(pod(), 1)
    cache.put(pod(uid="uid-2"), 1)
    assert [cached.uid for cached in cache.mark_missing(["uid-2"])] == [UID]
    assert [cached.uid for cached in cache if cached.is_deleted] == [UID]


def test_pod_that_is_no_sandbox_is_ignored():
    cache = PodCache()
    assert cache.put(pod(name="another"), 1) is None
    assert cache.sandbox_id(UID) is None
    cache.put(pod(), 1)
    assert cache.sandbox_id(UID) == "abc"
