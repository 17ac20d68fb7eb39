"""The namespace of the sandboxes: that it is there, and has room and leave for another one."""

import time
from decimal import Decimal

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, Verdict, broken, ok, unknown, warning
from deploy.doctor.inspector import Claim, Quota
from deploy.doctor.quantities import amount
from shared.sandbox import mounts
from shared.sandbox.record import Spec
from shared.sandbox.transitions import new_record
from shared.settings import ServiceType, Settings
from worker import manifests
from worker.kubernetes import manifest_types

LOW = Decimal("0.1")
"""Of a quota: when less is left, it is time to ask for more."""
ENFORCE = "pod-security.kubernetes.io/enforce"
_OF_OURS = frozenset({"NotBestEffort", "NotTerminating"})
"""Scopes of quotas that a sandbox counts for: it has requests, and no deadline."""
_SHARED = "ReadWriteMany"
_GRAVITY = (Verdict.OK, Verdict.WARNING, Verdict.BROKEN)
_NOT_THERE = "the namespace is not there yet"


def example(settings: Settings) -> manifest_types.PodManifest:
    """The Pod of a plain request."""
    return manifests.pod(new_record("doctor", Spec(), cluster=settings.cluster_name, now=time.time()), settings)


async def present(patient: Context) -> Finding:
    name = patient.settings.k8s_namespace
    found = await patient.cluster.namespace()
    if found is not None and found.status.phase == "Terminating":
        return broken(f"{name} is being deleted", "Wait for its end, or find what holds it: `kubectl get ns -o yaml`.")
    if found is not None:
        return ok(f"{name} is there")
    if await patient.cluster.may("create", "namespaces", ""):
        return ok(f"{name} is not there, and is made with the first sandbox")
    return broken(f"{name} is not there, and may not be made by us", f"`kubectl create namespace {name}`")


async def quota(patient: Context) -> Finding:
    quotas = [quota for quota in await patient.cluster.quotas() if _concerns_us(quota)]
    if not quotas:
        return ok("none")
    rooms = [room for quota in quotas for room in _rooms(quota, needed(patient.settings))]
    if not rooms:
        return ok("none of what a sandbox needs is limited")
    count, is_low, said = min(rooms)
    seen = f"room for {count} more: {said}"
    advice = "Raise the ResourceQuota, or end sandboxes: new ones wait for room until PROVISION_TIMEOUT_SECONDS."
    if count == 0:
        return broken(seen, advice)
    return warning(seen, advice) if is_low else ok(seen)


def needed(settings: Settings) -> dict[str, Decimal]:
    """What one sandbox counts for, by the names that quotas have for it."""
    pod = example(settings)
    need = dict.fromkeys(("pods", "count/pods", "services", "count/services"), Decimal(1))
    if settings.sandbox_service_type is ServiceType.NODE_PORT:
        need["services.nodeports"] = Decimal(1)
    for container in pod.spec.containers:
        if container.resources is None:
            continue
        for side, amounts in (("requests", container.resources.requests), ("limits", container.resources.limits)):
            for name, text in amounts.items():
                need[f"{side}.{name}"] = need.get(f"{side}.{name}", Decimal(0)) + amount(text)
    return need | {name.removeprefix("requests."): value for name, value in need.items() if name[:9] == "requests."}


def _concerns_us(quota: Quota) -> bool:
    return quota.spec.scope_selector is None and _OF_OURS.issuperset(quota.spec.scopes)


def _rooms(quota: Quota, need: dict[str, Decimal]) -> list[tuple[int, bool, str]]:
    """For each resource that is limited: how many more sandboxes fit, whether little is left, and of what."""
    rooms = []
    for name, hard in quota.status.hard.items():
        if name in need:
            limit, used = amount(hard), amount(quota.status.used.get(name, "0"))
            left = max(limit - used, Decimal(0))
            said = f"{quota.metadata.name} allows {hard} of {name}, {quota.status.used.get(name, '0')} used"
            rooms.append((int(left // need[name]), left < LOW * limit, said))
    return rooms


async def pod_security(patient: Context) -> Finding:
    found = await patient.cluster.namespace()
    if found is None:
        return unknown(_NOT_THERE)
    level = found.metadata.labels.get(ENFORCE, "privileged")
    if level == "restricted":
        return broken(
            f"{level}: refuses every sandbox, which may escalate privileges in its container",
            f"`kubectl label namespace {patient.settings.k8s_namespace} --overwrite {ENFORCE}=baseline`",
        )
    paths = [volume.host_path.path for volume in example(patient.settings).spec.volumes if volume.host_path]
    if level == "baseline" and paths:
        return broken(
            f"{level}: refuses hostPath, as in {', '.join(paths)}",
            "Use claims, SKILLS_PVC_NAME and USERDATA_PVC_NAME, or label the namespace privileged.",
        )
    if level == "baseline" and mounts.root(patient.settings) and not patient.settings.userdata_pvc_name:
        return warning(
            f"{level}: refuses hostPath, which extra mounts are", "Use a claim for user data: USERDATA_PVC_NAME."
        )
    return ok(f"{level}: {'hostPath is allowed' if paths else 'no hostPath is used'}")


async def claims(patient: Context) -> Finding:
    settings = patient.settings
    named = {"SKILLS_PVC_NAME": settings.skills_pvc_name, "USERDATA_PVC_NAME": settings.userdata_pvc_name}
    findings = [
        judge_claim(setting, name, await patient.cluster.claim(name)) for setting, name in named.items() if name
    ]
    if not findings:
        return ok("none is named")
    worst = max((finding.verdict for finding in findings), key=_GRAVITY.index)
    advice = dict.fromkeys(finding.advice for finding in findings if finding.advice)
    return Finding(worst, "\n".join(finding.seen for finding in findings), "\n".join(advice))


def judge_claim(setting: str, name: str, claim: Claim | None) -> Finding:
    if claim is None:
        return broken(
            f"{setting}: {name} is not there", "Make the claim in the sandboxes' namespace, or mend its name."
        )
    if claim.status.phase == "Lost":
        return broken(f"{setting}: {name} has lost its volume", f"`kubectl describe pvc {name}`")
    if claim.status.phase == "Pending":
        return warning(
            f"{setting}: {name} has no volume yet",
            f"If its storage class waits for a first Pod, this is as it should be: `kubectl describe pvc {name}`",
        )
    modes = claim.spec.access_modes
    if _SHARED not in modes and not (setting == "SKILLS_PVC_NAME" and "ReadOnlyMany" in modes):
        return warning(
            f"{setting}: {name} is {', '.join(modes) or 'of no access mode'}",
            f"With more than one node it must be {_SHARED}: Pods on a second node wait for it for ever.",
        )
    return ok(f"{setting}: {name} is there")
