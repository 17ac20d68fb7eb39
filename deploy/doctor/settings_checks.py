"""Checks of settings that are valid, and still disable, omit or contradict something."""

from collections.abc import Iterator

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, ok, warning
from shared.settings import Settings

PATHS = ("skills_host_path", "deer_flow_host_base_dir", "threads_host_path")


async def check_settings(context: Context) -> Finding:
    problems = list(_problems(context.settings))
    if not problems:
        return ok("valid")
    detail, advice = ("\n".join(column) for column in zip(*problems, strict=True))
    return warning(detail, advice)


def _problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield a detail and an advice each."""
    if not settings.provisioner_api_key and not settings.provisioner_allow_anonymous:
        yield (
            "no PROVISIONER_API_KEY: an API with these settings refuses every call",
            "Set it for the API. A worker does not need it.",
        )
    if settings.provisioner_allow_anonymous and not settings.provisioner_api_key:
        yield "anyone who reaches the API can start containers", "Set PROVISIONER_API_KEY."
    if not settings.k8s_verify_tls:
        yield (
            "K8S_VERIFY_TLS=false: any server can pose as the API server",
            "Use K8S_CA_FILE and K8S_TLS_SERVER_NAME instead.",
        )


async def check_paths(context: Context) -> Finding:
    """Check that the paths fit together. `shared.settings` has checked that each is absolute."""
    settings = context.settings
    paths = {field.upper(): getattr(settings, field) for field in PATHS if getattr(settings, field)}
    windows = [name for name, path in paths.items() if not path.startswith("/")]
    if windows and len(windows) < len(paths):
        posix = [name for name in paths if name not in windows]
        return warning(
            f"mixed styles: {', '.join(windows)} for Windows, {', '.join(posix)} for POSIX",
            "All are paths on the nodes. Write all of them in the style of the nodes' system.",
        )
    if unused := list(_unused(settings)):
        return warning("\n".join(unused), "Unset the settings without effect.")
    if not settings.userdata_pvc_name and not settings.threads_host_path:
        return warning(
            "user data is stored in each Pod, and is lost with the Pod",
            "Set USERDATA_PVC_NAME or, with one node, THREADS_HOST_PATH.",
        )
    if not paths:
        return ok("no paths: volume claims only")
    return ok(", ".join(f"{name}={path}" for name, path in paths.items()))


def _unused(settings: Settings) -> Iterator[str]:
    if settings.skills_pvc_name and settings.skills_host_path:
        yield "SKILLS_HOST_PATH has no effect beside SKILLS_PVC_NAME"
    if settings.userdata_pvc_name and settings.threads_host_path and settings.deer_flow_host_base_dir:
        yield "THREADS_HOST_PATH has no effect beside USERDATA_PVC_NAME and DEER_FLOW_HOST_BASE_DIR"
    if settings.skills_pvc_subpath_template and not settings.skills_pvc_name:
        yield "SKILLS_PVC_SUBPATH_TEMPLATE has no effect without SKILLS_PVC_NAME"
