"""Parts of a Pod for lark-cli: an init container with the binary, or a broker sidecar that keeps the credentials.

A request takes effect only if the image is configured. If both are requested and configured, the broker is used.
"""

from typing import NamedTuple

from shared.sandbox.record import Mount, Sandbox
from shared.settings import Settings
from worker.kubernetes.manifest_types import Container, EmptyDir, EnvVar, SecurityContext, Volume, VolumeMount
from worker.manifests import volumes
from worker.manifests.volumes import MountedVolume

RUNTIME = "/mnt/integrations/lark-cli/runtime"
RUNTIME_VOLUME = "lark-cli-runtime"
BROKER_URL = "http://127.0.0.1:8788"
BROKER_MOUNTS = {
    "/mnt/integrations/lark-cli/config": ("lark-cli-config", "/var/lark/config"),
    "/mnt/integrations/lark-cli/config/locks": ("lark-cli-locks", "/var/lark/config/locks"),
    "/mnt/integrations/lark-cli/data": ("lark-cli-data", "/var/lark/data"),
}
"""Extra mounts that go to the broker, so the sandbox does not see the credentials.

Requested container path → (volume, path in the broker).
"""

_UNPRIVILEGED = SecurityContext(privileged=False, allow_privilege_escalation=False)


class LarkAdditions(NamedTuple):
    """Additions to a Pod, and the container paths whose extra mounts the sandbox container does not get."""

    replaces_mounts: frozenset[str] = frozenset()
    mounts: tuple[VolumeMount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    env: tuple[EnvVar, ...] = ()
    init: tuple[Container, ...] = ()
    sidecars: tuple[Container, ...] = ()


def lark_additions(record: Sandbox, settings: Settings) -> LarkAdditions:
    if record.spec.provision_lark_cli_broker and settings.lark_cli_broker_image:
        return _broker(record, settings)
    if record.spec.provision_lark_cli_runtime and settings.lark_cli_init_image:
        return _runtime(_init_container("lark-cli-init", settings.lark_cli_init_image, ()))
    return LarkAdditions()


def _runtime(init: Container) -> LarkAdditions:
    """Add a runtime that the container `init` writes and the sandbox only reads."""
    return LarkAdditions(
        replaces_mounts=frozenset({RUNTIME}),
        mounts=(VolumeMount(name=RUNTIME_VOLUME, mount_path=RUNTIME, read_only=True),),
        volumes=(Volume(name=RUNTIME_VOLUME, empty_dir=EmptyDir()),),
        init=(init,),
    )


def _init_container(name: str, image: str, args: tuple[str, ...]) -> Container:
    return Container(
        name=name,
        image=image,
        image_pull_policy="IfNotPresent",
        args=args,
        env=(EnvVar(name="LARK_CLI_RUNTIME_DEST", value=RUNTIME),),
        security_context=_UNPRIVILEGED,
        volume_mounts=(VolumeMount(name=RUNTIME_VOLUME, mount_path=RUNTIME, read_only=False),),
    )


def _broker(record: Sandbox, settings: Settings) -> LarkAdditions:
    image = settings.lark_cli_broker_image
    runtime = _runtime(_init_container("lark-cli-shim-init", image, ("install-shim", RUNTIME)))
    mounted = [_broker_mount(m, settings) for m in record.spec.extra_mounts if m.container_path in BROKER_MOUNTS]
    return runtime._replace(
        replaces_mounts=runtime.replaces_mounts | BROKER_MOUNTS.keys(),
        volumes=runtime.volumes + tuple(m.volume for m in mounted if m.volume),
        env=(EnvVar(name="DEERFLOW_LARK_BROKER_URL", value=BROKER_URL),),
        sidecars=(_sidecar(image, tuple(m.mount for m in mounted), settings),),
    )


def _broker_mount(mount: Mount, settings: Settings) -> MountedVolume:
    name, path = BROKER_MOUNTS[mount.container_path]
    return volumes.extra_mount(name, mount, path, settings)


def _sidecar(image: str, mounts: tuple[VolumeMount, ...], settings: Settings) -> Container:
    env = {"LARKSUITE_CLI_CONFIG_DIR": "/var/lark/config", "LARKSUITE_CLI_DATA_DIR": "/var/lark/data"}
    if settings.deerflow_lark_broker_deny_subcommands:
        env["DEERFLOW_LARK_BROKER_DENY_SUBCOMMANDS"] = settings.deerflow_lark_broker_deny_subcommands
    return Container(
        name="lark-cli-broker",
        image=image,
        image_pull_policy="IfNotPresent",
        args=("serve",),
        env=tuple(EnvVar(name=name, value=value) for name, value in env.items()),
        security_context=_UNPRIVILEGED,
        volume_mounts=mounts,
    )
