"""Where a sandbox's files come from: skills, the thread's user data, and extra mounts. Precedence is contract.md's."""

from typing import NamedTuple

from shared import node_paths
from shared.sandbox import mounts
from shared.sandbox.record import Mount, Sandbox
from shared.settings import Settings
from worker.kubernetes.manifest_types import EmptyDir, HostPath, PersistentVolumeClaimSource, Volume, VolumeMount

SKILLS = "/mnt/skills"
USER_DATA = "/mnt/user-data"
USER_DATA_VOLUME = "user-data"


class Mounted(NamedTuple):
    """A container's view of a volume, and the volume; None: another mount of the same container brings it."""

    mount: VolumeMount
    volume: Volume | None


def host_path(name: str, path: str, at: str, *, read_only: bool) -> Mounted:
    """What is only read must be there already; what is written to may be made."""
    kind = "Directory" if read_only else "DirectoryOrCreate"
    volume = Volume(name=name, host_path=HostPath(path=path, type=kind))
    return Mounted(VolumeMount(name=name, mount_path=at, read_only=read_only), volume)


def skills(record: Sandbox, settings: Settings) -> list[Mounted]:
    """A claim, else the older layout's one path, else the three views below the base, else none."""
    if settings.skills_pvc_name:
        return [_skills_claim(record, settings)]
    if settings.skills_host_path:
        return [host_path("skills", settings.skills_host_path, SKILLS, read_only=True)]
    base = settings.deer_flow_host_base_dir
    if not base:
        return []
    of_user = node_paths.join(base, "users", record.spec.user_id, "skills_view")
    views = {
        "public": node_paths.join(base, "skills_view", "public"),
        "custom": node_paths.join(of_user, "custom"),
        "legacy": node_paths.join(of_user, "legacy"),
    }
    return [host_path(f"skills-{view}", path, f"{SKILLS}/{view}", read_only=True) for view, path in views.items()]


def _skills_claim(record: Sandbox, settings: Settings) -> Mounted:
    template = settings.skills_pvc_subpath_template
    sub_path = template.format(user_id=record.spec.user_id, thread_id=record.thread_id)
    volume = Volume(
        name="skills",
        persistent_volume_claim=PersistentVolumeClaimSource(claim_name=settings.skills_pvc_name, read_only=True),
    )
    return Mounted(VolumeMount(name="skills", mount_path=SKILLS, read_only=True, sub_path=sub_path), volume)


def user_data(record: Sandbox, settings: Settings) -> Mounted:
    """A claim, else the thread's directory on the node, else a directory that goes with the Pod."""
    if settings.userdata_pvc_name:
        sub_path = f"deer-flow/users/{record.spec.user_id}/threads/{record.thread_id}/user-data"
        volume = Volume(
            name=USER_DATA_VOLUME,
            persistent_volume_claim=PersistentVolumeClaimSource(claim_name=settings.userdata_pvc_name),
        )
        return Mounted(_user_data_mount(USER_DATA, sub_path, read_only=False), volume)
    if settings.threads_host_path:
        path = node_paths.join(settings.threads_host_path, record.thread_id, "user-data")
        return host_path(USER_DATA_VOLUME, path, USER_DATA, read_only=False)
    return Mounted(
        _user_data_mount(USER_DATA, "", read_only=False), Volume(name=USER_DATA_VOLUME, empty_dir=EmptyDir())
    )


def extra_mount(name: str, mount: Mount, at: str, settings: Settings) -> Mounted:
    """An extra mount: a path on the node or, where user data is a claim, the same path inside that claim."""
    if not settings.userdata_pvc_name:
        return host_path(name, node_paths.normalise(mount.host_path), at, read_only=mount.read_only)
    below = node_paths.relative_to(mount.host_path, mounts.root(settings))
    return Mounted(_user_data_mount(at, f"deer-flow/{below}", read_only=mount.read_only), None)


def _user_data_mount(at: str, sub_path: str, *, read_only: bool) -> VolumeMount:
    return VolumeMount(name=USER_DATA_VOLUME, mount_path=at, read_only=read_only, sub_path=sub_path)
