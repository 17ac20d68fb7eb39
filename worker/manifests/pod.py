"""record and settings → Pod. Pure: no clock, no chance, so that a retry makes the same one."""

import math

from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from worker.kubernetes.labels import annotations, labels
from worker.kubernetes.manifest_types import (
    Container,
    ContainerPort,
    HttpGet,
    ObjectMeta,
    PodManifest,
    PodSpec,
    Probe,
    ResourceRequirements,
    SecurityContext,
    Volume,
    VolumeMount,
)
from worker.manifests import volumes
from worker.manifests.lark import Lark, lark

HEALTH_PATH = "/v1/sandbox"
BACKSTOP_SECONDS = 3600
"""Kubernetes itself ends a Pod that has outlived its lifetime by so much: nothing stays for ever, though we be dead."""
RESOURCES = ResourceRequirements(
    requests={"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "500Mi"},
    limits={"cpu": "1000m", "memory": "1Gi", "ephemeral-storage": "500Mi"},
)


def pod(record: Sandbox, settings: Settings) -> PodManifest:
    added = lark(record, settings)
    mounts, brought = _storage(record, settings, added)
    spec = PodSpec(
        containers=(_sandbox(settings, mounts, added), *added.sidecars),
        init_containers=added.init,
        restart_policy="Always",
        active_deadline_seconds=math.ceil(record.lifetime) + BACKSTOP_SECONDS if record.lifetime else None,
        automount_service_account_token=False,
        enable_service_links=False,
        volumes=brought,
    )
    return PodManifest(api_version="v1", kind="Pod", metadata=_metadata(record, settings), spec=spec)


def _metadata(record: Sandbox, settings: Settings) -> ObjectMeta:
    return ObjectMeta(
        name=object_name(record.id, record.incarnation),
        namespace=settings.k8s_namespace,
        labels=labels(record),
        annotations=annotations(record),
    )


def _storage(record: Sandbox, settings: Settings, added: Lark) -> tuple[tuple[VolumeMount, ...], tuple[Volume, ...]]:
    """Mounts of the sandbox container and volumes of the Pod. One mount a path: an extra mount wins over the usual."""
    asked = [m for m in record.spec.extra_mounts if m.container_path not in added.replaces_mounts]
    extras = [volumes.extra_mount(f"extra-{i}", m, m.container_path, settings) for i, m in enumerate(asked)]
    usual = [*volumes.skills(record, settings), volumes.user_data(record, settings)]
    overridden = {m.mount.mount_path for m in extras}
    mounted = [*(m for m in usual if m.mount.mount_path not in overridden), *extras]
    return (
        (*(m.mount for m in mounted), *added.mounts),
        (*(m.volume for m in mounted if m.volume), *added.volumes),
    )


def _sandbox(settings: Settings, mounts: tuple[VolumeMount, ...], added: Lark) -> Container:
    port = settings.sandbox_container_port
    health = HttpGet(path=HEALTH_PATH, port=port)
    return Container(
        name="sandbox",
        image=settings.sandbox_image,
        image_pull_policy="IfNotPresent",
        env=added.env,
        ports=(ContainerPort(name="http", container_port=port, protocol="TCP"),),
        startup_probe=_startup(health, settings),
        liveness_probe=Probe(http_get=health, period_seconds=10, timeout_seconds=3, failure_threshold=3),
        readiness_probe=Probe(http_get=health, period_seconds=5, timeout_seconds=3, failure_threshold=3),
        resources=RESOURCES,
        security_context=SecurityContext(privileged=False, allow_privilege_escalation=True),
        volume_mounts=mounts,
    )


def _startup(health: HttpGet, settings: Settings) -> Probe:
    """Asked every second, so that a sandbox is ready within one second of being so; the other probes wait for it."""
    seconds = math.ceil(settings.provision_timeout_seconds)
    return Probe(http_get=health, period_seconds=1, timeout_seconds=3, failure_threshold=seconds)
