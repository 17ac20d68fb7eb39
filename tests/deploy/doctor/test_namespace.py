"""The namespace of the sandboxes, and what in it stands in the way of another one."""

from decimal import Decimal
from typing import Any

import pytest

from deploy.doctor.findings import Verdict
from deploy.doctor.namespace import ENFORCE, needed
from deploy.doctor.quantities import amount
from deploy.local.emulator.client import Client
from shared.settings import read_settings
from tests.deploy.doctor.conftest import Look, made

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", ["namespace", "quota", "pod security", "claims"])
async def test_all_is_well(look: Look, check: str):
    found = await look(check)
    assert found.verdict is Verdict.OK, found
    assert not found.advice


async def test_it_is_made_with_the_first_sandbox(look: Look):
    found = await look("namespace", K8S_NAMESPACE="absent")
    assert (found.verdict, found.seen) == (Verdict.OK, "absent is not there, and is made with the first sandbox")


async def test_it_may_not_be_made(look: Look, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "create", "resource": "namespaces"})
    found = await look("namespace", K8S_NAMESPACE="absent")
    assert found.verdict is Verdict.BROKEN
    assert found.advice == "`kubectl create namespace absent`"


async def test_it_may_not_be_looked_at(look: Look, kubernetes: Client):
    """As by a worker with no more permissions than it needs."""
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "get", "resource": "namespaces"})
    for check in ("namespace", "pod security"):
        found = await look(check)
        assert found.verdict is Verdict.UNKNOWN
        assert "may not look" in found.seen


@pytest.mark.parametrize("kubernetes", [{"termination_seconds": 30.0}], indirect=True)
async def test_it_is_being_deleted(look: Look, kubernetes: Client):
    await made(kubernetes, "namespaces", "going")
    kubernetes.namespace = "going"
    await made(kubernetes, "pods", "p", spec=POD)
    await kubernetes.ready("p")
    await kubernetes.delete("namespaces", "going")
    found = await look("namespace", K8S_NAMESPACE="going")
    assert found.verdict is Verdict.BROKEN
    assert "is being deleted" in found.seen


POD = {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}


async def limit(kubernetes: Client, **hard: str) -> None:
    await made(kubernetes, "resourcequotas", "q", spec={"hard": {name.replace("_", "."): hard[name] for name in hard}})


@pytest.mark.parametrize(
    ("hard", "verdict", "seen"),
    [
        ({"pods": "40"}, Verdict.OK, "room for 39 more: q allows 40 of pods, 1 used"),
        ({"requests_cpu": "1"}, Verdict.OK, "room for 9 more: q allows 1 of requests.cpu, 100m used"),
        ({"requests_cpu": "150m"}, Verdict.BROKEN, "room for 0 more: q allows 150m of requests.cpu, 100m used"),
        ({"pods": "1"}, Verdict.BROKEN, "room for 0 more: q allows 1 of pods, 1 used"),
        ({"limits_memory": "512Mi"}, Verdict.BROKEN, "room for 0 more: q allows 512Mi of limits.memory, 0 used"),
        ({"services_nodeports": "0", "pods": "9"}, Verdict.BROKEN, "q allows 0 of services.nodeports, 0 used"),
        ({"persistentvolumeclaims": "1"}, Verdict.OK, "none of what a sandbox needs is limited"),
    ],
)
async def test_quota(look: Look, kubernetes: Client, hard, verdict, seen):
    """How many more sandboxes fit into what is left, by what there is least of."""
    await made(kubernetes, "pods", "p", spec=POD)
    await limit(kubernetes, **hard)
    found = await look("quota")
    assert found.verdict is verdict
    assert seen in found.seen
    assert ("Raise the ResourceQuota" in found.advice) is (verdict is Verdict.BROKEN)


async def test_quota_that_is_nearly_full(look: Look, kubernetes: Client):
    await limit(kubernetes, services="11")
    for number in range(10):
        await made(kubernetes, "services", f"s{number}", spec={"ports": [{"port": 80}]})
    found = await look("quota")
    assert (found.verdict, found.seen) == (Verdict.WARNING, "room for 1 more: q allows 11 of services, 10 used")


async def test_quota_of_another_kind_of_pod(look: Look, kubernetes: Client):
    await made(kubernetes, "resourcequotas", "q", spec={"hard": {"pods": "0"}, "scopes": ["BestEffort"]})
    assert (await look("quota")).seen == "none"


def test_what_a_sandbox_needs_of_a_quota():
    need = needed(read_settings({}))
    assert need["cpu"] == need["requests.cpu"] == Decimal("0.1")
    assert need["limits.memory"] == 2**30
    assert need["services.nodeports"] == 1
    assert "services.nodeports" not in needed(read_settings({"SANDBOX_SERVICE_TYPE": "ClusterIP"}))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", "2"), ("100m", "0.1"), ("1.5Gi", str(3 * 2**29)), ("1e3", "1000"), ("2k", "2000"), ("0", "0")],
)
def test_quantities(text: str, value: str):
    assert amount(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "1KiB"])
def test_what_is_no_quantity(text: str):
    with pytest.raises(ValueError, match="expected a quantity"):
        amount(text)


@pytest.mark.parametrize(
    ("level", "settings", "verdict", "words"),
    [
        ("privileged", {}, Verdict.OK, "hostPath is allowed"),
        ("baseline", {}, Verdict.BROKEN, "refuses hostPath, as in /srv/threads/doctor/user-data"),
        ("baseline", {"THREADS_HOST_PATH": ""}, Verdict.OK, "no hostPath is used"),
        ("baseline", {"USERDATA_PVC_NAME": "data"}, Verdict.OK, "no hostPath is used"),
        (
            "baseline",
            {"THREADS_HOST_PATH": "", "SKILLS_PVC_NAME": "skills", "DEER_FLOW_HOST_BASE_DIR": "/srv"},
            Verdict.WARNING,
            "which extra mounts are",
        ),
        ("restricted", {"THREADS_HOST_PATH": ""}, Verdict.BROKEN, "may escalate privileges"),
    ],
)
async def test_pod_security(look: Look, kubernetes: Client, level, settings, verdict, words):
    await made(kubernetes, "namespaces", "strict", metadata={"labels": {ENFORCE: level}})
    found = await look("pod security", K8S_NAMESPACE="strict", **settings)
    assert found.verdict is verdict
    assert found.seen.startswith(f"{level}: ")
    assert words in found.seen
    assert bool(found.advice) is (verdict is not Verdict.OK)


async def test_pod_security_of_a_namespace_that_is_not_there(look: Look):
    assert (await look("pod security", K8S_NAMESPACE="absent")).verdict is Verdict.UNKNOWN


def claim(*modes: str) -> dict[str, Any]:
    return {"accessModes": list(modes), "resources": {"requests": {"storage": "1Gi"}}}


@pytest.mark.parametrize(
    ("setting", "modes", "verdict"),
    [
        ("USERDATA_PVC_NAME", ["ReadWriteMany"], Verdict.OK),
        ("USERDATA_PVC_NAME", ["ReadWriteOnce"], Verdict.WARNING),
        ("USERDATA_PVC_NAME", ["ReadOnlyMany"], Verdict.WARNING),
        ("SKILLS_PVC_NAME", ["ReadOnlyMany"], Verdict.OK),
        ("SKILLS_PVC_NAME", ["ReadWriteOnce"], Verdict.WARNING),
    ],
)
async def test_claim(look: Look, kubernetes: Client, setting, modes, verdict):
    """One that only one node may mount leaves Pods on the others waiting."""
    await made(kubernetes, "persistentvolumeclaims", "c", spec=claim(*modes))
    found = await look("claims", **{setting: "c"})
    assert found.verdict is verdict
    assert ("ReadWriteMany" in found.advice) is (verdict is Verdict.WARNING)


async def test_claims_that_are_not_there(look: Look, kubernetes: Client):
    """The worse of two is the verdict; both are told."""
    await made(kubernetes, "persistentvolumeclaims", "there", spec=claim("ReadWriteMany"))
    found = await look("claims", SKILLS_PVC_NAME="there", USERDATA_PVC_NAME="absent")
    assert found.verdict is Verdict.BROKEN
    assert found.seen.splitlines() == ["SKILLS_PVC_NAME: there is there", "USERDATA_PVC_NAME: absent is not there"]
