"""A Pod's containers."""

from deploy.local.emulator.base.names import dns_label_faults, port_name_faults
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.validation.environment import environment_faults
from deploy.local.emulator.validation.probes import handler_faults, probe_faults
from deploy.local.emulator.validation.resources import resource_faults
from deploy.local.emulator.validation.security import container_security_faults
from deploy.local.emulator.validation.volumes import mount_faults

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PORT_MAX = 65535
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_SIDECARS_ONLY = "may not be set for init containers without restartPolicy=Always"


def container_faults(containers: list[Object], volumes: set[str]) -> list[FieldError]:
    if not containers:
        return [required_value("spec.containers")]
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, container in enumerate(containers):
        field = f"spec.containers[{index}]"
        errors += _common_faults(container, volumes, field)
        errors += _repeated(container, seen, field)
        errors += _probe_faults(container, field)
        if "restartPolicy" in container:
            errors.append(forbidden_value(f"{field}.restartPolicy", "may not be set for non-init containers"))
    return errors + _host_port_conflicts(containers, "spec.containers")


def init_container_faults(containers: list[Object], others: list[Object], volumes: set[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen = {container.get("name", "") for container in others}
    for index, container in enumerate(containers):
        field = f"spec.initContainers[{index}]"
        errors += _common_faults(container, volumes, field)
        if container.get("restartPolicy", "Always") != "Always":
            errors.append(unsupported_value(f"{field}.restartPolicy", container["restartPolicy"], ("Always",)))
        errors += _repeated(container, seen, field)
        if container.get("restartPolicy") == "Always":
            errors += _probe_faults(container, field)
        else:
            given = [name for name in ("lifecycle", *_PROBES) if name in container]
            errors += [forbidden_value(f"{field}.{name}", _SIDECARS_ONLY) for name in given]
    return errors


def pod_only_faults(containers: list[Object], field: str) -> list[FieldError]:
    """Checked after everything else of the spec."""
    words = "must not have leading or trailing whitespace"
    images = [container.get("image", "") for container in containers]
    return [
        invalid_value(f"{field}[{index}].image", image, words)
        for index, image in enumerate(images)
        if image != image.strip()
    ]


def host_network_faults(spec: Object) -> list[FieldError]:
    words = "must match `containerPort` when `hostNetwork` is true"
    return [
        invalid_value(f"spec.containers[{c}].ports[{p}].hostPort", port.get("hostPort", 0), words)
        for c, container in enumerate(spec["containers"])
        for p, port in enumerate(container.get("ports", []))
        if spec.get("hostNetwork") and port.get("hostPort", 0) != port.get("containerPort", 0)
    ]


def _common_faults(container: Object, volumes: set[str], field: str) -> list[FieldError]:
    return [
        *_name_faults(container.get("name", ""), f"{field}.name"),
        *([] if container.get("image") else [required_value(f"{field}.image")]),
        *_choice(container, "terminationMessagePolicy", _MESSAGE_POLICIES, field),
        *_port_faults(container.get("ports", []), f"{field}.ports"),
        *environment_faults(container.get("env", []), f"{field}.env"),
        *mount_faults(container.get("volumeMounts", []), volumes, f"{field}.volumeMounts"),
        *_choice(container, "imagePullPolicy", _PULL_POLICIES, field),
        *resource_faults(container["resources"], f"{field}.resources"),
        *container_security_faults(container.get("securityContext", {}), f"{field}.securityContext"),
    ]


def _name_faults(name: str, field: str) -> list[FieldError]:
    if not name:
        return [required_value(field)]
    return [invalid_value(field, name, words) for words in dns_label_faults(name)]


def _choice(container: Object, name: str, supported: tuple[str, ...], field: str) -> list[FieldError]:
    if container[name] in supported:
        return []
    return [unsupported_value(f"{field}.{name}", container[name], supported)]


def _repeated(container: Object, seen: set[str], field: str) -> list[FieldError]:
    name = container.get("name", "")
    if name in seen:
        return [duplicate_value(f"{field}.name", name)]
    if name:
        seen.add(name)
    return []


def _probe_faults(container: Object, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("postStart", "preStop"):
        if name in container.get("lifecycle", {}):
            errors += handler_faults(container["lifecycle"][name], f"{field}.lifecycle.{name}")
    for name in _PROBES:
        if name in container:
            errors += probe_faults(container[name], f"{field}.{name}", readiness=name == "readinessProbe")
    return errors


def _port_faults(ports: list[Object], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        errors += _port_name(port.get("name", ""), seen, f"{field}[{index}].name")
        errors += _port_number(port, f"{field}[{index}]")
        seen.add(port.get("name", ""))
    return errors


def _port_name(name: str, seen: set[str], field: str) -> list[FieldError]:
    if not name:
        return []
    if words := port_name_faults(name):
        return [invalid_value(field, name, word) for word in words]
    return [duplicate_value(field, name)] if name in seen else []


def _port_number(port: Object, field: str) -> list[FieldError]:
    number, host = port.get("containerPort", 0), port.get("hostPort", 0)
    errors = []
    if not number:
        errors.append(required_value(f"{field}.containerPort"))
    elif not 0 < number <= _PORT_MAX:
        errors.append(invalid_value(f"{field}.containerPort", number, _PORT_RANGE))
    if not 0 <= host <= _PORT_MAX:
        errors.append(invalid_value(f"{field}.hostPort", host, _PORT_RANGE))
    if port["protocol"] not in _PROTOCOLS:
        errors.append(unsupported_value(f"{field}.protocol", port["protocol"], _PROTOCOLS))
    return errors


def _host_port_conflicts(containers: list[Object], field: str) -> list[FieldError]:
    errors = []
    seen = set()
    for index, container in enumerate(containers):
        for number, port in enumerate(container.get("ports", [])):
            place = f"{port['protocol']}/{port.get('hostIP', '')}/{port.get('hostPort', 0)}"
            if port.get("hostPort") and place in seen:
                errors.append(duplicate_value(f"{field}[{index}].ports[{number}].hostPort", place))
            seen.add(place)
    return errors
