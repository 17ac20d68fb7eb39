"""The checks of the sandboxes' namespace, and of what in it can prevent the next sandbox."""

from decimal import Decimal
from typing import Any

import pytest

from deploy.doctor.findings import Verdict
from deploy.doctor.namespace import ENFORCE, required
from deploy.doctor.quantities import amount
from deploy.local.emulator.client import Client
from shared.settings import read_settings
from tests.deploy.doctor.conftest import RunCheck, create

pytestmark = pytest.mark.anyio

POD = {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}


@pytest.mark.parametrize("check", ["namespace", "quota", "pod security", "volume claims"])
async def test_default_namespace_is_ok(run_check: RunCheck, check: str):
    result = await run_check(check)
    assert result.verdict is Verdict.OK, result
    assert not result.advice


async def test_missing_namespace_is_ok_if_a_worker_may_create_it(run_check: RunCheck):
    result = await run_check("namespace", K8S_NAMESPACE="absent")
    assert (result.verdict, result.detail) == (Verdict.OK, "absent does not exist; the first sandbox creates it")


async def test_missing_namespace_fails_if_a_worker_may_not_create_it(run_check: RunCheck, kubernetes: Client):
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "create", "resource": "namespaces"})
    result = await run_check("namespace", K8S_NAMESPACE="absent")
    assert result.verdict is Verdict.FAILED
    assert result.advice == "`kubectl create namespace absent`"


async def test_namespace_without_permission_is_unknown(run_check: RunCheck, kubernetes: Client):
    """A worker's own Role has no permission to read namespaces."""
    await kubernetes.faults({"kind": "error", "status": 403, "verb": "get", "resource": "namespaces"})
    for check in ("namespace", "pod security"):
        result = await run_check(check)
        assert result.verdict is Verdict.UNKNOWN
        assert "lack the permission" in result.detail


@pytest.mark.parametrize("kubernetes", [{"termination_seconds": 30.0}], indirect=True)
async def test_namespace_that_is_being_deleted_fails(run_check: RunCheck, kubernetes: Client):
    await create(kubernetes, "namespaces", "going")
    kubernetes.namespace = "going"
    await create(kubernetes, "pods", "p", spec=POD)
    await kubernetes.ready("p")
    await kubernetes.delete("namespaces", "going")
    result = await run_check("namespace", K8S_NAMESPACE="going")
    assert result.verdict is Verdict.FAILED
    assert "is being deleted" in result.detail


async def limit(kubernetes: Client, **hard: str) -> None:
    await create(
        kubernetes, "resourcequotas", "q", spec={"hard": {name.replace("_", "."): hard[name] for name in hard}}
    )


@pytest.mark.parametrize(
    ("hard", "verdict", "detail"),
    [
        ({"pods": "40"}, Verdict.OK, "room for 39 more: q allows 40 of pods, 1 used"),
        ({"requests_cpu": "1"}, Verdict.OK, "room for 9 more: q allows 1 of requests.cpu, 100m used"),
        ({"requests_cpu": "150m"}, Verdict.FAILED, "room for 0 more: q allows 150m of requests.cpu, 100m used"),
        ({"pods": "1"}, Verdict.FAILED, "room for 0 more: q allows 1 of pods, 1 used"),
        ({"limits_memory": "512Mi"}, Verdict.FAILED, "room for 0 more: q allows 512Mi of limits.memory, 0 used"),
        ({"services_nodeports": "0", "pods": "9"}, Verdict.FAILED, "q allows 0 of services.nodeports, 0 used"),
        ({"persistentvolumeclaims": "1"}, Verdict.OK, "no ResourceQuota limits what a sandbox needs"),
    ],
)
async def test_quota_is_judged_by_its_scarcest_resource(run_check: RunCheck, kubernetes: Client, hard, verdict, detail):
    await create(kubernetes, "pods", "p", spec=POD)
    await limit(kubernetes, **hard)
    result = await run_check("quota")
    assert result.verdict is verdict
    assert detail in result.detail
    assert ("Raise the ResourceQuota" in result.advice) is (verdict is Verdict.FAILED)


async def test_quota_that_is_nearly_used_up_is_a_warning(run_check: RunCheck, kubernetes: Client):
    await limit(kubernetes, services="11")
    for number in range(10):
        await create(kubernetes, "services", f"s{number}", spec={"ports": [{"port": 80}]})
    result = await run_check("quota")
    assert (result.verdict, result.detail) == (Verdict.WARNING, "room for 1 more: q allows 11 of services, 10 used")


async def test_quota_for_other_pods_is_ignored(run_check: RunCheck, kubernetes: Client):
    await create(kubernetes, "resourcequotas", "q", spec={"hard": {"pods": "0"}, "scopes": ["BestEffort"]})
    assert (await run_check("quota")).detail == "no ResourceQuota"


def test_required_resources_follow_the_manifest_and_the_service_type():
    amounts = required(read_settings({}))
    assert amounts["cpu"] == amounts["requests.cpu"] == Decimal("0.1")
    assert amounts["limits.memory"] == 2**30
    assert amounts["services.nodeports"] == 1
    assert "services.nodeports" not in required(read_settings({"SANDBOX_SERVICE_TYPE": "ClusterIP"}))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", "2"), ("100m", "0.1"), ("1.5Gi", str(3 * 2**29)), ("1e3", "1000"), ("2k", "2000"), ("0", "0")],
)
def test_amount_reads_a_quantity(text: str, value: str):
    assert amount(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "1KiB"])
def test_amount_of_other_text_raises(text: str):
    with pytest.raises(ValueError, match="expected a quantity"):
        amount(text)


@pytest.mark.parametrize(
    ("level", "settings", "verdict", "detail"),
    [
        ("privileged", {}, Verdict.OK, "hostPath is allowed"),
        ("baseline", {}, Verdict.FAILED, "rejects hostPath volumes: /srv/threads/doctor/user-data"),
        ("baseline", {"THREADS_HOST_PATH": ""}, Verdict.OK, "no hostPath is used"),
        ("baseline", {"USERDATA_PVC_NAME": "data"}, Verdict.OK, "no hostPath is used"),
        (
            "baseline",
            {"THREADS_HOST_PATH": "", "SKILLS_PVC_NAME": "skills", "DEER_FLOW_HOST_BASE_DIR": "/srv"},
            Verdict.WARNING,
            "extra mounts are such volumes",
        ),
        ("restricted", {"THREADS_HOST_PATH": ""}, Verdict.FAILED, "may escalate privileges"),
    ],
)
async def test_pod_security_level_is_judged_by_the_volumes(
    run_check: RunCheck, kubernetes: Client, level, settings, verdict, detail
):
    await create(kubernetes, "namespaces", "strict", metadata={"labels": {ENFORCE: level}})
    result = await run_check("pod security", K8S_NAMESPACE="strict", **settings)
    assert result.verdict is verdict
    assert result.detail.startswith(f"{level}: ")
    assert detail in result.detail
    assert bool(result.advice) is (verdict is not Verdict.OK)


async def test_pod_security_of_a_missing_namespace_is_unknown(run_check: RunCheck):
    assert (await run_check("pod security", K8S_NAMESPACE="absent")).verdict is Verdict.UNKNOWN


def volume_claim(*modes: str) -> dict[str, Any]:
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
async def test_volume_claim_for_one_node_is_a_warning(run_check: RunCheck, kubernetes: Client, setting, modes, verdict):
    """Pods on other nodes cannot mount the volume, and stay Pending."""
    await create(kubernetes, "persistentvolumeclaims", "c", spec=volume_claim(*modes))
    result = await run_check("volume claims", **{setting: "c"})
    assert result.verdict is verdict
    assert ("ReadWriteMany" in result.advice) is (verdict is Verdict.WARNING)


async def test_missing_volume_claim_fails_and_the_other_is_shown(run_check: RunCheck, kubernetes: Client):
    await create(kubernetes, "persistentvolumeclaims", "present", spec=volume_claim("ReadWriteMany"))
    result = await run_check("volume claims", SKILLS_PVC_NAME="present", USERDATA_PVC_NAME="absent")
    assert result.verdict is Verdict.FAILED
    assert result.detail.splitlines() == [
        "SKILLS_PVC_NAME: present exists",
        "USERDATA_PVC_NAME: absent does not exist",
    ]
