"""Validation of volumes and of their mounts."""

from deploy.local.emulator.base.names import validate_dns_label
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required_value,
    unknown_value,
    unsupported_value,
)

_HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")


def validate_volumes(volumes: list[Object]) -> tuple[set[str], list[FieldError]]:
    """Return the names of the valid volumes, and the errors of the others. Only valid volumes can be mounted."""
    valid_names: set[str] = set()
    errors: list[FieldError] = []
    for index, volume in enumerate(volumes):
        volume_errors = _validate_volume(volume, valid_names, f"spec.volumes[{index}]")
        errors += volume_errors
        if not volume_errors:
            valid_names.add(volume["name"])
    return valid_names, errors


def _validate_volume(volume: Object, valid_names: set[str], field: str) -> list[FieldError]:
    name = volume.get("name", "")
    errors = _validate_source(volume, field)
    if not name:
        errors.append(required_value(f"{field}.name"))
    else:
        errors += [invalid_value(f"{field}.name", name, detail) for detail in validate_dns_label(name)]
    return [*errors, duplicate_value(f"{field}.name", name)] if name in valid_names else errors


def _validate_source(volume: Object, field: str) -> list[FieldError]:
    sources = [name for name in volume if name != "name"]
    errors = [forbidden_value(f"{field}.{name}", "may not specify more than 1 volume type") for name in sources[1:]]
    if "hostPath" in volume:
        errors += _validate_host_path(volume["hostPath"], f"{field}.hostPath")
    if "nfs" in volume:
        errors += _validate_nfs(volume["nfs"], f"{field}.nfs")
    needed = (("persistentVolumeClaim", "claimName"), ("secret", "secretName"), ("configMap", "name"))
    return errors + [
        required_value(f"{field}.{name}.{key}") for name, key in needed if name in volume and not volume[name].get(key)
    ]


def _validate_host_path(source: Object, field: str) -> list[FieldError]:
    path = source.get("path", "")
    if not path:
        return [required_value(f"{field}.path")]
    errors = []
    if ".." in path.split("/"):
        errors.append(invalid_value(f"{field}.path", path, "must not contain '..'"))
    if source["type"] not in _HOST_PATH_TYPES:
        errors.append(unsupported_value(f"{field}.type", source["type"], _HOST_PATH_TYPES))
    return errors


def _validate_nfs(source: Object, field: str) -> list[FieldError]:
    errors = [required_value(f"{field}.{name}") for name in ("server", "path") if not source.get(name)]
    if source.get("path") and not source["path"].startswith("/"):
        errors.append(invalid_value(f"{field}.path", source["path"], "must be an absolute path"))
    return errors


def validate_mounts(mounts: list[Object], volumes: set[str], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    mount_paths: set[str] = set()
    for index, mount in enumerate(mounts):
        errors += _validate_mount_point(mount, volumes, mount_paths, f"{field}[{index}]")
        errors += _validate_sub_paths(mount, field, f"{field}[{index}]")
        if mount.get("mountPropagation", "None") not in _PROPAGATIONS:
            errors.append(unsupported_value(f"{field}.mountPropagation", mount["mountPropagation"], _PROPAGATIONS))
        mount_paths.add(mount.get("mountPath", ""))
    return errors


def _validate_mount_point(mount: Object, volumes: set[str], mount_paths: set[str], field: str) -> list[FieldError]:
    name, path = mount.get("name", ""), mount.get("mountPath", "")
    errors = [] if name else [required_value(f"{field}.name")]
    if name not in volumes:
        errors.append(unknown_value(f"{field}.name", name))
    if not path:
        errors.append(required_value(f"{field}.mountPath"))
    if path in mount_paths:
        errors.append(invalid_value(f"{field}.mountPath", path, "must be unique"))
    return errors


def _validate_sub_paths(mount: Object, field: str, indexed: str) -> list[FieldError]:
    """Validate sub-paths. The real server names these fields without an index."""
    path, expression = mount.get("subPath", ""), mount.get("subPathExpr", "")
    errors = _validate_relative_path(path, f"{field}.subPath")
    if path and expression:
        detail = "subPathExpr and subPath are mutually exclusive"
        errors.append(invalid_value(f"{indexed}.subPathExpr", expression, detail))
    return errors + _validate_relative_path(expression, f"{field}.subPathExpr")


def _validate_relative_path(path: str, field: str) -> list[FieldError]:
    errors = [invalid_value(field, path, "must be a relative path")] if path.startswith("/") else []
    return [*errors, invalid_value(field, path, "must not contain '..'")] if ".." in path.split("/") else errors
