"""The Pod security checks. Each returns the violation of a Pod's spec in words, or "".

The checks are those of `k8s.io/pod-security-admission/policy/check_*.go`, as of 1.34 and later. The checks for Windows,
SELinux, AppArmor, sysctls and /proc are left out, because a sandbox Pod sets none of these.
"""

from collections.abc import Callable, Iterable

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.defaults.pods import iterate_containers

_DEFAULT_CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"}
    | {"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
_UNRESTRICTED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SECCOMP = ("RuntimeDefault", "Localhost")


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _name_list(noun: str, names: list[str]) -> str:
    return f"{noun if len(names) == 1 else noun + 's'} {_quote(names)}"


def _context(container: Object) -> Object:
    context: Object = container.get("securityContext", {})
    return context


def _container_names(spec: Object, is_violation: Callable[[Object], object]) -> list[str]:
    return [container["name"] for container in iterate_containers(spec) if is_violation(container)]


def _added_capabilities(container: Object) -> list[str]:
    names: list[str] = _context(container).get("capabilities", {}).get("add", [])
    return names


def check_added_capabilities(spec: Object) -> str:
    extra = {
        name for container in iterate_containers(spec) for name in _added_capabilities(container)
    } - _DEFAULT_CAPABILITIES
    names = _container_names(spec, lambda container: extra & set(_added_capabilities(container)))
    rule = f"must not include {_quote(sorted(extra))} in securityContext.capabilities.add"
    return f"non-default capabilities ({_name_list('container', names)} {rule})" if names else ""


def check_host_namespaces(spec: Object) -> str:
    fields = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return f"host namespaces ({', '.join(fields)})" if fields else ""


def check_host_paths(spec: Object) -> str:
    names = [volume["name"] for volume in spec.get("volumes", []) if "hostPath" in volume]
    return f"hostPath volumes ({_name_list('volume', names)})" if names else ""


def _host_ports(container: Object) -> list[str]:
    return [str(port["hostPort"]) for port in container.get("ports", []) if port.get("hostPort")]


def check_host_ports(spec: Object) -> str:
    names = _container_names(spec, _host_ports)
    ports = sorted({port for container in iterate_containers(spec) for port in _host_ports(container)})
    uses = f"{'uses' if len(names) == 1 else 'use'} hostPort{'' if len(ports) == 1 else 's'} {', '.join(ports)}"
    return f"hostPort ({_name_list('container', names)} {uses})" if names else ""


def check_privileged(spec: Object) -> str:
    names = _container_names(spec, lambda container: _context(container).get("privileged"))
    return (
        f"privileged ({_name_list('container', names)} must not set securityContext.privileged=true)" if names else ""
    )


def _probe_hosts(container: Object) -> set[str]:
    probes = [container.get(name, {}) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers = [*probes, *(h for h in container.get("lifecycle", {}).values() if isinstance(h, dict))]
    return {
        handler[name]["host"]
        for handler in handlers
        for name in ("httpGet", "tcpSocket")
        if handler.get(name, {}).get("host")
    }


def check_probe_hosts(spec: Object) -> str:
    names = sorted(_container_names(spec, _probe_hosts))
    hosts = sorted({host for container in iterate_containers(spec) for host in _probe_hosts(container)})
    uses = f"{'uses' if len(names) == 1 else 'use'} {_name_list('probe or lifecycle host', hosts)}"
    return f"probe or lifecycle host ({_name_list('container', names)} {uses})" if names else ""


def check_seccomp_baseline(spec: Object) -> str:
    pod = ["pod"] if spec["securityContext"].get("seccompProfile", {}).get("type") == "Unconfined" else []
    names = _container_names(spec, lambda c: _context(c).get("seccompProfile", {}).get("type") == "Unconfined")
    setters = " and ".join([*pod, *([_name_list("container", names)] if names else [])])
    return (
        f'seccompProfile ({setters} must not set securityContext.seccompProfile.type to "Unconfined")'
        if setters
        else ""
    )


def check_privilege_escalation(spec: Object) -> str:
    names = _container_names(spec, lambda container: _context(container).get("allowPrivilegeEscalation") is not False)
    rule = "must set securityContext.allowPrivilegeEscalation=false"
    return f"allowPrivilegeEscalation != false ({_name_list('container', names)} {rule})" if names else ""


def check_capabilities_restricted(spec: Object) -> str:
    missing_drop = _container_names(spec, lambda c: "ALL" not in _context(c).get("capabilities", {}).get("drop", []))
    extra = {name for container in iterate_containers(spec) for name in _added_capabilities(container)} - {
        "NET_BIND_SERVICE"
    }
    adders = _container_names(spec, lambda container: extra & set(_added_capabilities(container)))
    violations = []
    if missing_drop:
        violations.append(f'{_name_list("container", missing_drop)} must set securityContext.capabilities.drop=["ALL"]')
    if adders:
        rule = f"must not include {_quote(sorted(extra))} in securityContext.capabilities.add"
        violations.append(f"{_name_list('container', adders)} {rule}")
    return f"unrestricted capabilities ({'; '.join(violations)})" if violations else ""


def check_volume_types(spec: Object) -> str:
    restricted = {v["name"]: set(v) - _UNRESTRICTED_VOLUMES - {"name"} for v in spec.get("volumes", [])}
    restricted = {name: types for name, types in restricted.items() if types}
    types = sorted({kind for kinds in restricted.values() for kind in kinds})
    uses = f"{'uses' if len(restricted) == 1 else 'use'} {_name_list('restricted volume type', types)}"
    return f"restricted volume types ({_name_list('volume', list(restricted))} {uses})" if restricted else ""


def check_run_as_non_root(spec: Object) -> str:
    default = spec["securityContext"].get("runAsNonRoot")
    offenders = _container_names(spec, lambda container: _context(container).get("runAsNonRoot") is False)
    setters = [*(["pod"] if default is False else []), *([_name_list("container", offenders)] if offenders else [])]
    if setters:
        return f"runAsNonRoot != true ({' and '.join(setters)} must not set securityContext.runAsNonRoot=false)"
    unset = _container_names(spec, lambda container: _context(container).get("runAsNonRoot", default) is None)
    rule = "must set securityContext.runAsNonRoot=true"
    return f"runAsNonRoot != true (pod or {_name_list('container', unset)} {rule})" if unset else ""


def check_run_as_user(spec: Object) -> str:
    names = _container_names(spec, lambda container: _context(container).get("runAsUser") == 0)
    pod = ["pod"] if spec["securityContext"].get("runAsUser") == 0 else []
    setters = " and ".join([*pod, *([_name_list("container", names)] if names else [])])
    return f"runAsUser=0 ({setters} must not set runAsUser=0)" if setters else ""


def check_seccomp_restricted(spec: Object) -> str:
    profiles = {c["name"]: _context(c).get("seccompProfile", {}).get("type") for c in iterate_containers(spec)}
    default = spec["securityContext"].get("seccompProfile", {}).get("type")
    offenders = [name for name, kind in profiles.items() if kind not in {None, *_SECCOMP}]
    setters = [
        *(["pod"] if default not in {None, *_SECCOMP} else []),
        *([_name_list("container", offenders)] if offenders else []),
    ]
    if setters:
        values = sorted({kind for kind in (default, *profiles.values()) if kind not in {None, *_SECCOMP}})
        rule = f"must not set securityContext.seccompProfile.type to {_quote(values)}"
        return f"seccompProfile ({' and '.join(setters)} {rule})"
    unset = [name for name, kind in profiles.items() if kind is None and default is None]
    rule = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {_name_list('container', unset)} {rule})" if unset else ""
