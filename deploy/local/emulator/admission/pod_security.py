"""Pod security admission: which checks a namespace's label asks for, and the refusal that names every violation."""

from collections.abc import Callable

from deploy.local.emulator.admission import pod_security_checks as checks
from deploy.local.emulator.base.statuses import Object, forbidden
from deploy.local.emulator.storage.kinds import NAMESPACES
from deploy.local.emulator.storage.objects import Store

ENFORCE = "pod-security.kubernetes.io/enforce"

_BOTH: tuple[Callable[[Object], str], ...] = (
    checks.host_namespaces,
    checks.host_ports,
    checks.privileged,
    checks.probe_hosts,
)
_LEVELS: dict[str, tuple[Callable[[Object], str], ...]] = {
    "baseline": (
        checks.added_capabilities,
        checks.host_namespaces,
        checks.host_paths,
        checks.host_ports,
        checks.privileged,
        checks.probe_hosts,
        checks.unconfined,
    ),
    "restricted": (
        *_BOTH,
        checks.escalation,
        checks.kept_capabilities,
        checks.volume_types,
        checks.root,
        checks.root_user,
        checks.seccomp,
    ),
}


def admit(store: Store, body: Object) -> None:
    namespace = store.get(NAMESPACES, "", body["metadata"]["namespace"])
    labels = namespace.labels if namespace is not None else {}
    level, version = labels.get(ENFORCE, "privileged"), labels.get(f"{ENFORCE}-version", "latest")
    violations = [words for check in _LEVELS.get(level, ()) if (words := check(body["spec"]))]
    if violations:
        why = f'violates PodSecurity "{level}:{version}": {", ".join(violations)}'
        raise forbidden("pods", body["metadata"]["name"], why)
