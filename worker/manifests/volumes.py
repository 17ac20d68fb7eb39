"""Sources of a sandbox's files: skills, the thread's user data, and extra mounts.

Paths and precedence are those of DeerFlow's own provisioner. `tests/worker/manifests/deerflow` holds its manifests.
"""

from typing import NamedTuple

from shared import node_paths
from shared.sandbox import mounts
from shared.sandbox.record import Mount, Sandbox
from shared.settings import Settings
from worker.kubernetes.manifest_types import EmptyDir, HostPath, PersistentVolumeClaimSource, Volume, VolumeMount

SKILLS = "/mnt/skills"
USER_DATA = "/mnt/user-data"
USER_DATA_VOLUME = "user-data"


class MountedVolume(NamedTuple):
    """A mount of a container and its volume; None if another mount of the Pod adds the volume."""

    mount: VolumeMount
    volume: Volume | None


def host_path(name: str, path: str, mount_path: str, *, read_only: bool) -> MountedVolume:
    """Mount a directory of the node. A read-only one must exist; kubelet creates a writable one."""
    kind = "Directory" if read_only else "DirectoryOrCreate"
    volume = Volume(name=name, host_path=HostPath(path=path, type=kind))
    return MountedVolume(VolumeMount(name=name, mount_path=mount_path, read_only=read_only), volume)


def skills(record: Sandbox, settings: Settings) -> list[MountedVolume]:
    """Return the first that is configured: a PVC, one directory for all, three views below the base; else none."""
    if settings.skills_pvc_name:
        return [_skills_pvc(record, settings)]
    if settings.skills_host_path:
        return [host_path("skills", settings.skills_host_path, SKILLS, read_only=True)]
    base = settings.deer_flow_host_base_dir
    if not base:
        return []
    user_view = node_paths.join(base, "users", record.spec.user_id, "skills_view")
    views = {
        "public": node_paths.join(base, "skills_view", "public"),
        "custom": node_paths.join(user_view, "custom"),
        "legacy": node_paths.join(user_view, "legacy"),
    }
    return [host_path(f"skills-{view}", path, f"{SKILLS}/{view}", read_only=True) for view, path in views.items()]


def _skills_pvc(record: Sandbox, settings: Settings) -> MountedVolume:
    template = settings.skills_pvc_subpath_template
    sub_path = template.format(user_id=record.spec.user_id, thread_id=record.thread_id)
    volume = Volume(
        name="skills",
        persistent_volume_claim=PersistentVolumeClaimSource(claim_name=settings.skills_pvc_name, read_only=True),
    )
    return MountedVolume(VolumeMount(name="skills", mount_path=SKILLS, read_only=True, sub_path=sub_path), volume)


def user_data(record: Sandbox, settings: Settings) -> MountedVolume:
    """Return the first that is configured: a PVC, the thread's directory on the node; else an emptyDir."""
    if settings.userdata_pvc_name:
        sub_path = f"deer-flow/users/{record.spec.user_id}/threads/{record.thread_id}/user-data"
        volume = Volume(
            name=USER_DATA_VOLUME,
            persistent_volume_claim=PersistentVolumeClaimSource(claim_name=settings.userdata_pvc_name),
        )
        return MountedVolume(_user_data_mount(USER_DATA, sub_path, read_only=False), volume)
    if settings.threads_host_path:
        path = node_paths.join(settings.threads_host_path, record.thread_id, "user-data")
        return host_path(USER_DATA_VOLUME, path, USER_DATA, read_only=False)
    return MountedVolume(
        _user_data_mount(USER_DATA, "", read_only=False), Volume(name=USER_DATA_VOLUME, empty_dir=EmptyDir())
    )


def extra_mount(name: str, mount: Mount, mount_path: str, settings: Settings) -> MountedVolume:
    """Mount a path of the node. If user data is on a PVC, mount the same path inside that PVC instead."""
    if not settings.userdata_pvc_name:
        path = node_paths.normalise(mount.host_path)
        return host_path(name, path, mount_path, read_only=mount.read_only)
    relative = node_paths.relative_to(mount.host_path, mounts.root(settings))
    return MountedVolume(_user_data_mount(mount_path, f"deer-flow/{relative}", read_only=mount.read_only), None)


def _user_data_mount(mount_path: str, sub_path: str, *, read_only: bool) -> VolumeMount:
    return VolumeMount(name=USER_DATA_VOLUME, mount_path=mount_path, read_only=read_only, sub_path=sub_path)
