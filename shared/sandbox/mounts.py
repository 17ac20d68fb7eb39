"""Extra mounts: the allowed paths in a sandbox, and the part of the node that can be mounted there. Pure."""

import re
from collections.abc import Sequence

from shared import node_paths
from shared.errors import InvalidRequest
from shared.sandbox.record import Mount
from shared.settings import Settings

CONTAINER_PATHS = frozenset(
    {
        "/mnt/acp-workspace",
        "/mnt/skills/custom",
        "/mnt/skills/integrations",
        "/mnt/integrations/lark-cli/config",
        "/mnt/integrations/lark-cli/config/locks",
        "/mnt/integrations/lark-cli/data",
        "/mnt/integrations/lark-cli/runtime",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def root(settings: Settings) -> str:
    """Return the directory on the node that must contain all extra mounts; empty if extra mounts are not allowed."""
    if settings.deer_flow_host_base_dir:
        return settings.deer_flow_host_base_dir
    threads = node_paths.normalise(settings.threads_host_path) if settings.threads_host_path else ""
    base = node_paths.dirname(threads) if threads and node_paths.basename(threads) == "threads" else ""
    return base if node_paths.basename(base) else ""  # the parent of `/threads` would be the whole node


def check_mounts(mounts: Sequence[Mount], settings: Settings) -> None:
    """Check all extra mounts of a request.

    Raises:
        InvalidRequest: a mount breaks a rule; the message names the field, the rule and the value.
    """
    used: set[str] = set()
    for number, mount in enumerate(mounts):
        field = f"extra_mounts[{number}]"
        _check_container_path(mount.container_path, used, f"{field}.container_path")
        _check_host_path(mount.host_path, root(settings), f"{field}.host_path")
        used.add(mount.container_path)


def _check_container_path(path: str, used: set[str], field: str) -> None:
    if path not in CONTAINER_PATHS:
        allowed = ", ".join(sorted(CONTAINER_PATHS))
        raise InvalidRequest(f"{field}: expected one of {allowed}; got {path!r}", field=field)
    if path in used:
        raise InvalidRequest(f"{field}: {path} is mounted twice", field=field)


def _check_host_path(path: str, base: str, field: str) -> None:
    if not node_paths.is_absolute(path) or _CONTROL.search(path):
        raise InvalidRequest(f"{field}: expected an absolute path on the node; got {path!r}", field=field)
    if not base:
        allowed = "DEER_FLOW_HOST_BASE_DIR, or a THREADS_HOST_PATH that ends in `threads`"
        raise InvalidRequest(f"{field}: extra mounts need a setting of the server: {allowed}", field=field)
    if node_paths.relative_to(path, base) is None:
        raise InvalidRequest(f"{field}: expected a path below {base}; got {path!r}", field=field)
