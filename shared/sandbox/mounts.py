"""Extra mounts: which places in a sandbox may be mounted over, and which part of the node may be mounted there."""

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
    """The directory that extra mounts must be below; empty: none is known, so none may be mounted."""
    if settings.deer_flow_host_base_dir:
        return settings.deer_flow_host_base_dir
    threads = node_paths.normalise(settings.threads_host_path) if settings.threads_host_path else ""
    base = node_paths.dirname(threads) if threads and node_paths.basename(threads) == "threads" else ""
    return base if node_paths.basename(base) else ""  # of `/threads` it would be the whole node


def check_mounts(mounts: Sequence[Mount], settings: Settings) -> None:
    """Raises InvalidRequest for the first mount that breaks a rule; it names the field, the rule, and what was sent."""
    seen: set[str] = set()
    for number, mount in enumerate(mounts):
        field = f"extra_mounts[{number}]"
        _check_container_path(mount.container_path, seen, f"{field}.container_path")
        _check_host_path(mount.host_path, root(settings), f"{field}.host_path")
        seen.add(mount.container_path)


def _check_container_path(path: str, seen: set[str], field: str) -> None:
    if path not in CONTAINER_PATHS:
        allowed = ", ".join(sorted(CONTAINER_PATHS))
        raise InvalidRequest(f"{field}: expected one of {allowed}; got {path!r}", field=field)
    if path in seen:
        raise InvalidRequest(f"{field}: {path} is mounted twice", field=field)


def _check_host_path(path: str, base: str, field: str) -> None:
    if not node_paths.is_absolute(path) or _CONTROL.search(path):
        raise InvalidRequest(f"{field}: expected an absolute path on the node; got {path!r}", field=field)
    if not base:
        detail = f"{field}: this server allows no extra mounts: neither DEER_FLOW_HOST_BASE_DIR nor a THREADS_HOST_PATH"
        raise InvalidRequest(f"{detail} that ends in `threads` is set", field=field)
    if node_paths.relative_to(path, base) is None:
        raise InvalidRequest(f"{field}: expected a path below {base}; got {path!r}", field=field)
