"""Pod security admission: the checks of a namespace's level, and the error that names all violations."""

from collections.abc import Callable

from deploy.local.emulator.admission import pod_security_checks as checks
from deploy.local.emulator.base.statuses import Object, forbidden
from deploy.local.emulator.storage.kinds import NAMESPACES
from deploy.local.emulator.storage.objects import Store

ENFORCE = "pod-security.kubernetes.io/enforce"

_COMMON_CHECKS: tuple[Callable[[Object], str], ...] = (
    checks.check_host_namespaces,
    checks.check_host_ports,
    checks.check_privileged,
    checks.check_probe_hosts,
)
_LEVELS: dict[str, tuple[Callable[[Object], str], ...]] = {
    "baseline": (
        checks.check_added_capabilities,
        checks.check_host_namespaces,
        checks.check_host_paths,
        checks.check_host_ports,
        checks.check_privileged,
        checks.check_probe_hosts,
        checks.check_seccomp_baseline,
    ),
    "restricted": (
        *_COMMON_CHECKS,
        checks.check_privilege_escalation,
        checks.check_capabilities_restricted,
        checks.check_volume_types,
        checks.check_run_as_non_root,
        checks.check_run_as_user,
        checks.check_seccomp_restricted,
    ),
}


def admit(store: Store, body: Object) -> None:
    namespace = store.get(NAMESPACES, "", body["metadata"]["namespace"])
    labels = namespace.labels if namespace is not None else {}
    level, version = labels.get(ENFORCE, "privileged"), labels.get(f"{ENFORCE}-version", "latest")
    violations = [violation for check in _LEVELS.get(level, ()) if (violation := check(body["spec"]))]
    if violations:
        detail = f'violates PodSecurity "{level}:{version}": {", ".join(violations)}'
        raise forbidden("pods", body["metadata"]["name"], detail)
