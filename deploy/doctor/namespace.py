"""Checks of the sandboxes' namespace: the namespace itself, its quota, Pod Security level and volume claims."""

import time
from decimal import Decimal

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, Verdict, failed, ok, unknown, warning
from deploy.doctor.inspector import Quota, VolumeClaim
from deploy.doctor.quantities import amount
from shared.sandbox import mounts
from shared.sandbox.record import Spec
from shared.sandbox.transitions import new_record
from shared.settings import ServiceType, Settings
from worker import manifests
from worker.kubernetes import manifest_types

LOW = Decimal("0.1")
"""Share of a quota below which the check warns, while there is time to raise the quota."""
ENFORCE = "pod-security.kubernetes.io/enforce"
_SANDBOX_SCOPES = frozenset({"NotBestEffort", "NotTerminating"})
"""Quota scopes that include a sandbox: its Pod has requests, and no deadline."""
_SHARED = "ReadWriteMany"
_SEVERITY = (Verdict.OK, Verdict.WARNING, Verdict.FAILED)


def example(settings: Settings) -> manifest_types.PodManifest:
    """Return the Pod of a request without options."""
    return manifests.pod(new_record("doctor", Spec(), cluster=settings.cluster_name, now=time.time()), settings)


async def check_namespace(context: Context) -> Finding:
    name = context.settings.k8s_namespace
    namespace = await context.cluster.namespace()
    if namespace is not None and namespace.status.phase == "Terminating":
        return failed(
            f"{name} is being deleted", "Wait for its end, or find what blocks it: `kubectl get namespace -o yaml`."
        )
    if namespace is not None:
        return ok(f"{name} exists")
    if await context.cluster.is_allowed("create", "namespaces", ""):
        return ok(f"{name} does not exist; the first sandbox creates it")
    return failed(
        f"{name} does not exist, and a worker has no permission to create it", f"`kubectl create namespace {name}`"
    )


async def check_quota(context: Context) -> Finding:
    quotas = [quota for quota in await context.cluster.quotas() if _counts_sandboxes(quota)]
    if not quotas:
        return ok("no ResourceQuota")
    rooms = [room for quota in quotas for room in _rooms(quota, required(context.settings))]
    if not rooms:
        return ok("no ResourceQuota limits what a sandbox needs")
    count, is_low, source = min(rooms)
    detail = f"room for {count} more: {source}"
    advice = "Raise the ResourceQuota, or delete sandboxes: new ones wait for room until PROVISION_TIMEOUT_SECONDS."
    if count == 0:
        return failed(detail, advice)
    return warning(detail, advice) if is_low else ok(detail)


def required(settings: Settings) -> dict[str, Decimal]:
    """Return what one sandbox needs, by the resource names of quotas."""
    pod = example(settings)
    amounts = dict.fromkeys(("pods", "count/pods", "services", "count/services"), Decimal(1))
    if settings.sandbox_service_type is ServiceType.NODE_PORT:
        amounts["services.nodeports"] = Decimal(1)
    for container in pod.spec.containers:
        if container.resources is None:
            continue
        for side, values in (("requests", container.resources.requests), ("limits", container.resources.limits)):
            for name, text in values.items():
                amounts[f"{side}.{name}"] = amounts.get(f"{side}.{name}", Decimal(0)) + amount(text)
    requests = {name.removeprefix("requests."): value for name, value in amounts.items() if name[:9] == "requests."}
    return amounts | requests


def _counts_sandboxes(quota: Quota) -> bool:
    return quota.spec.scope_selector is None and _SANDBOX_SCOPES.issuperset(quota.spec.scopes)


def _rooms(quota: Quota, needs: dict[str, Decimal]) -> list[tuple[int, bool, str]]:
    """Return for each limited resource: how many more sandboxes fit, whether little is left, and a description."""
    rooms = []
    for name, hard in quota.status.hard.items():
        if name in needs:
            limit, used = amount(hard), amount(quota.status.used.get(name, "0"))
            left = max(limit - used, Decimal(0))
            source = f"{quota.metadata.name} allows {hard} of {name}, {quota.status.used.get(name, '0')} used"
            rooms.append((int(left // needs[name]), left < LOW * limit, source))
    return rooms


async def check_pod_security(context: Context) -> Finding:
    settings = context.settings
    namespace = await context.cluster.namespace()
    if namespace is None:
        return unknown(f"{settings.k8s_namespace} does not exist yet")
    level = namespace.metadata.labels.get(ENFORCE, "privileged")
    if level == "restricted":
        return failed(
            f"{level}: rejects every sandbox, because a sandbox may escalate privileges in its container",
            f"`kubectl label namespace {settings.k8s_namespace} --overwrite {ENFORCE}=baseline`",
        )
    paths = [volume.host_path.path for volume in example(settings).spec.volumes if volume.host_path]
    if level == "baseline" and paths:
        return failed(
            f"{level}: rejects hostPath volumes: {', '.join(paths)}",
            "Use volume claims (SKILLS_PVC_NAME, USERDATA_PVC_NAME), or label the namespace `privileged`.",
        )
    if level == "baseline" and mounts.root(settings) and not settings.userdata_pvc_name:
        return warning(
            f"{level}: rejects hostPath volumes, and extra mounts are such volumes",
            "Use a volume claim for user data: USERDATA_PVC_NAME.",
        )
    return ok(f"{level}: {'hostPath is allowed' if paths else 'no hostPath is used'}")


async def check_volume_claims(context: Context) -> Finding:
    settings = context.settings
    names = {"SKILLS_PVC_NAME": settings.skills_pvc_name, "USERDATA_PVC_NAME": settings.userdata_pvc_name}
    findings = [
        judge_volume_claim(setting, name, await context.cluster.volume_claim(name))
        for setting, name in names.items()
        if name
    ]
    if not findings:
        return ok("no setting names a volume claim")
    worst = max((finding.verdict for finding in findings), key=_SEVERITY.index)
    advice = dict.fromkeys(finding.advice for finding in findings if finding.advice)
    return Finding(worst, "\n".join(finding.detail for finding in findings), "\n".join(advice))


def judge_volume_claim(setting: str, name: str, claim: VolumeClaim | None) -> Finding:
    if claim is None:
        return failed(
            f"{setting}: {name} does not exist",
            "Create the volume claim in the sandboxes' namespace, or correct the setting.",
        )
    if claim.status.phase == "Lost":
        return failed(f"{setting}: {name} has lost its volume", f"`kubectl describe pvc {name}`")
    if claim.status.phase == "Pending":
        return warning(
            f"{setting}: {name} has no volume yet",
            f"This is normal if its storage class binds with the first Pod. Check: `kubectl describe pvc {name}`",
        )
    modes = claim.spec.access_modes
    if _SHARED not in modes and not (setting == "SKILLS_PVC_NAME" and "ReadOnlyMany" in modes):
        return warning(
            f"{setting}: {name} has {'access mode ' + ', '.join(modes) if modes else 'no access mode'}",
            f"With more than one node, {_SHARED} is needed: a Pod on a second node cannot mount the volume.",
        )
    return ok(f"{setting}: {name} exists")
