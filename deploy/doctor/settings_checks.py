"""What the settings alone show: what is switched off, missing or without effect, though each of them is valid."""

from collections.abc import Iterator

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, ok, warning
from shared.settings import Settings

PATHS = ("skills_host_path", "deer_flow_host_base_dir", "threads_host_path")


async def settings(patient: Context) -> Finding:
    doubts = list(_doubts(patient.settings))
    if not doubts:
        return ok("valid")
    seen, advice = ("\n".join(column) for column in zip(*doubts, strict=True))
    return warning(seen, advice)


def _doubts(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is doubtful, and what to do."""
    if not settings.provisioner_api_key and not settings.provisioner_allow_anonymous:
        yield "no PROVISIONER_API_KEY: an API so set refuses every call", "Set the API's; a worker needs none."
    if settings.provisioner_allow_anonymous and not settings.provisioner_api_key:
        yield "anyone who reaches the API may start containers", "Set PROVISIONER_API_KEY."
    if not settings.k8s_verify_tls:
        yield "K8S_VERIFY_TLS=false: anyone may pose as the API server", "Use K8S_CA_FILE and K8S_TLS_SERVER_NAME."


async def paths(patient: Context) -> Finding:
    """That they are absolute, `shared.settings` has seen to."""
    settings = patient.settings
    given = {field.upper(): getattr(settings, field) for field in PATHS if getattr(settings, field)}
    windows = [name for name, path in given.items() if not path.startswith("/")]
    if windows and len(windows) < len(given):
        others = [name for name in given if name not in windows]
        return warning(
            f"{', '.join(windows)}: a path of Windows; {', '.join(others)}: of POSIX",
            "All are paths on the nodes, which are one or the other: write them in one style.",
        )
    if unused := list(_unused(settings)):
        return warning("\n".join(unused), "Unset what has no effect.")
    if not settings.userdata_pvc_name and not settings.threads_host_path:
        return warning(
            "user data is kept in each Pod, and goes with it",
            "Set USERDATA_PVC_NAME, or THREADS_HOST_PATH on one node.",
        )
    if not given:
        return ok("none: claims only")
    return ok(", ".join(f"{name}={path}" for name, path in given.items()))


def _unused(settings: Settings) -> Iterator[str]:
    if settings.skills_pvc_name and settings.skills_host_path:
        yield "SKILLS_HOST_PATH has no effect beside SKILLS_PVC_NAME"
    if settings.userdata_pvc_name and settings.threads_host_path and settings.deer_flow_host_base_dir:
        yield "THREADS_HOST_PATH has no effect beside USERDATA_PVC_NAME and DEER_FLOW_HOST_BASE_DIR"
    if settings.skills_pvc_subpath_template and not settings.skills_pvc_name:
        yield "SKILLS_PVC_SUBPATH_TEMPLATE has no effect without SKILLS_PVC_NAME"
