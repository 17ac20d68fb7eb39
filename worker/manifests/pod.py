"""Builds a sandbox's Pod manifest from its record and the settings. Pure, so a retry sends the same Pod."""

import math

from shared.sandbox.names import object_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from worker.kubernetes.labels import annotations, labels
from worker.kubernetes.manifest_types import (
    Container,
    ContainerPort,
    HttpGet,
    ObjectMetaManifest,
    PodManifest,
    PodSpecManifest,
    Probe,
    ResourceRequirements,
    SecurityContext,
    Volume,
    VolumeMount,
)
from worker.manifests import volumes
from worker.manifests.lark import LarkAdditions, lark_additions

HEALTH_PATH = "/v1/sandbox"
BACKSTOP_SECONDS = 3600
"""Time after the lifetime at which Kubernetes itself ends the Pod, so no Pod stays if all workers are dead."""
RESOURCES = ResourceRequirements(
    requests={"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "500Mi"},
    limits={"cpu": "1000m", "memory": "1Gi", "ephemeral-storage": "500Mi"},
)


def pod(record: Sandbox, settings: Settings) -> PodManifest:
    lark = lark_additions(record, settings)
    mounts, pod_volumes = _storage(record, settings, lark)
    spec = PodSpecManifest(
        containers=(_sandbox(settings, mounts, lark), *lark.sidecars),
        init_containers=lark.init,
        restart_policy="Always",
        active_deadline_seconds=math.ceil(record.lifetime) + BACKSTOP_SECONDS if record.lifetime else None,
        automount_service_account_token=False,
        enable_service_links=False,
        volumes=pod_volumes,
    )
    return PodManifest(api_version="v1", kind="Pod", metadata=_metadata(record, settings), spec=spec)


def _metadata(record: Sandbox, settings: Settings) -> ObjectMetaManifest:
    return ObjectMetaManifest(
        name=object_name(record.id, record.incarnation),
        namespace=settings.k8s_namespace,
        labels=labels(record),
        annotations=annotations(record),
    )


def _storage(
    record: Sandbox, settings: Settings, lark: LarkAdditions
) -> tuple[tuple[VolumeMount, ...], tuple[Volume, ...]]:
    """Return the mounts of the sandbox container and the volumes of the Pod.

    Kubernetes allows one mount a path. An extra mount replaces the default mount of its path.
    """
    requested = [m for m in record.spec.extra_mounts if m.container_path not in lark.replaces_mounts]
    extras = [volumes.extra_mount(f"extra-{i}", m, m.container_path, settings) for i, m in enumerate(requested)]
    defaults = [*volumes.skills(record, settings), volumes.user_data(record, settings)]
    overridden = {m.mount.mount_path for m in extras}
    mounted = [*(m for m in defaults if m.mount.mount_path not in overridden), *extras]
    return (
        (*(m.mount for m in mounted), *lark.mounts),
        (*(m.volume for m in mounted if m.volume), *lark.volumes),
    )


def _sandbox(settings: Settings, mounts: tuple[VolumeMount, ...], lark: LarkAdditions) -> Container:
    port = settings.sandbox_container_port
    health = HttpGet(path=HEALTH_PATH, port=port)
    return Container(
        name="sandbox",
        image=settings.sandbox_image,
        image_pull_policy="IfNotPresent",
        env=lark.env,
        ports=(ContainerPort(name="http", container_port=port, protocol="TCP"),),
        startup_probe=_startup_probe(health, settings),
        liveness_probe=Probe(http_get=health, period_seconds=10, timeout_seconds=3, failure_threshold=3),
        readiness_probe=Probe(http_get=health, period_seconds=5, timeout_seconds=3, failure_threshold=3),
        resources=RESOURCES,
        security_context=SecurityContext(privileged=False, allow_privilege_escalation=True),
        volume_mounts=mounts,
    )


def _startup_probe(health: HttpGet, settings: Settings) -> Probe:
    """Probe every second until the sandbox is up. The other probes are slower, and begin after this one.

    Kubernetes restarts the container after as many failures as provisioning may take seconds.
    """
    seconds = math.ceil(settings.provision_timeout_seconds)
    return Probe(http_get=health, period_seconds=1, timeout_seconds=3, failure_threshold=seconds)
