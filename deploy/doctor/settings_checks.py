"""Checks of settings that are valid, and still disable, omit or contradict something."""

from collections.abc import Iterator

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, ok, warning
from shared.setting_warnings import misspelled, without_effect

PATHS = ("skills_host_path", "deer_flow_host_base_dir", "threads_host_path")


async def check_settings(context: Context) -> Finding:
    problems = list(_problems(context))
    if not problems:
        return ok("valid")
    detail, advice = ("\n".join(column) for column in zip(*problems, strict=True))
    return warning(detail, advice)


def _problems(context: Context) -> Iterator[tuple[str, str]]:
    """Yield a detail and an advice each. The secret is mounted into the API's Pods alone, so a worker has no key."""
    settings = context.settings
    has_key = settings.provisioner_api_key or settings.provisioner_allow_anonymous
    if not has_key and not context.in_pod_of_worker:
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
    for sentence in misspelled(context.environment):
        yield sentence, "Correct the name, or unset the variable."


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
    if unused := list(without_effect(settings)):
        return warning("\n".join(unused), "Unset the settings without effect.")
    if not settings.userdata_pvc_name and not settings.threads_host_path:
        return warning(
            "user data is stored in each Pod, and is lost with the Pod",
            "Set USERDATA_PVC_NAME or, with one node, THREADS_HOST_PATH.",
        )
    if not paths:
        return ok("no paths: volume claims only")
    return ok(", ".join(f"{name}={path}" for name, path in paths.items()))
