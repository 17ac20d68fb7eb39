"""Validation of containers."""

from deploy.local.emulator.base.names import validate_dns_label, validate_port_name
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.validation.environment import validate_environment
from deploy.local.emulator.validation.probes import validate_handler, validate_probe
from deploy.local.emulator.validation.resources import validate_resources
from deploy.local.emulator.validation.security import validate_container_security
from deploy.local.emulator.validation.volumes import validate_mounts

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PORT_MAX = 65535
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_SIDECARS_ONLY = "may not be set for init containers without restartPolicy=Always"


def validate_containers(containers: list[Object], volumes: set[str]) -> list[FieldError]:
    if not containers:
        return [required_value("spec.containers")]
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, container in enumerate(containers):
        field = f"spec.containers[{index}]"
        errors += _validate_common(container, volumes, field)
        errors += _validate_unique_name(container, names, field)
        errors += _validate_probes(container, field)
        if "restartPolicy" in container:
            errors.append(forbidden_value(f"{field}.restartPolicy", "may not be set for non-init containers"))
    return errors + _validate_unique_host_ports(containers, "spec.containers")


def validate_init_containers(
    containers: list[Object], main_containers: list[Object], volumes: set[str]
) -> list[FieldError]:
    errors: list[FieldError] = []
    names = {container.get("name", "") for container in main_containers}
    for index, container in enumerate(containers):
        field = f"spec.initContainers[{index}]"
        errors += _validate_common(container, volumes, field)
        if container.get("restartPolicy", "Always") != "Always":
            errors.append(unsupported_value(f"{field}.restartPolicy", container["restartPolicy"], ("Always",)))
        errors += _validate_unique_name(container, names, field)
        if container.get("restartPolicy") == "Always":
            errors += _validate_probes(container, field)
        else:
            fields = [name for name in ("lifecycle", *_PROBES) if name in container]
            errors += [forbidden_value(f"{field}.{name}", _SIDECARS_ONLY) for name in fields]
    return errors


def validate_images(containers: list[Object], field: str) -> list[FieldError]:
    """Validate image names. Kubernetes does this after all other parts of the spec."""
    detail = "must not have leading or trailing whitespace"
    images = [container.get("image", "") for container in containers]
    return [
        invalid_value(f"{field}[{index}].image", image, detail)
        for index, image in enumerate(images)
        if image != image.strip()
    ]


def validate_host_network(spec: Object) -> list[FieldError]:
    detail = "must match `containerPort` when `hostNetwork` is true"
    return [
        invalid_value(f"spec.containers[{c}].ports[{p}].hostPort", port.get("hostPort", 0), detail)
        for c, container in enumerate(spec["containers"])
        for p, port in enumerate(container.get("ports", []))
        if spec.get("hostNetwork") and port.get("hostPort", 0) != port.get("containerPort", 0)
    ]


def _validate_common(container: Object, volumes: set[str], field: str) -> list[FieldError]:
    return [
        *_validate_name(container.get("name", ""), f"{field}.name"),
        *([] if container.get("image") else [required_value(f"{field}.image")]),
        *_validate_choice(container, "terminationMessagePolicy", _MESSAGE_POLICIES, field),
        *_validate_ports(container.get("ports", []), f"{field}.ports"),
        *validate_environment(container.get("env", []), f"{field}.env"),
        *validate_mounts(container.get("volumeMounts", []), volumes, f"{field}.volumeMounts"),
        *_validate_choice(container, "imagePullPolicy", _PULL_POLICIES, field),
        *validate_resources(container["resources"], f"{field}.resources"),
        *validate_container_security(container.get("securityContext", {}), f"{field}.securityContext"),
    ]


def _validate_name(name: str, field: str) -> list[FieldError]:
    if not name:
        return [required_value(field)]
    return [invalid_value(field, name, detail) for detail in validate_dns_label(name)]


def _validate_choice(container: Object, name: str, supported: tuple[str, ...], field: str) -> list[FieldError]:
    if container[name] in supported:
        return []
    return [unsupported_value(f"{field}.{name}", container[name], supported)]


def _validate_unique_name(container: Object, names: set[str], field: str) -> list[FieldError]:
    name = container.get("name", "")
    if name in names:
        return [duplicate_value(f"{field}.name", name)]
    if name:
        names.add(name)
    return []


def _validate_probes(container: Object, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("postStart", "preStop"):
        if name in container.get("lifecycle", {}):
            errors += validate_handler(container["lifecycle"][name], f"{field}.lifecycle.{name}")
    for name in _PROBES:
        if name in container:
            errors += validate_probe(container[name], f"{field}.{name}", readiness=name == "readinessProbe")
    return errors


def _validate_ports(ports: list[Object], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        errors += _validate_port_name(port.get("name", ""), names, f"{field}[{index}].name")
        errors += _validate_port_number(port, f"{field}[{index}]")
        names.add(port.get("name", ""))
    return errors


def _validate_port_name(name: str, names: set[str], field: str) -> list[FieldError]:
    if not name:
        return []
    if detail := validate_port_name(name):
        return [invalid_value(field, name, word) for word in detail]
    return [duplicate_value(field, name)] if name in names else []


def _validate_port_number(port: Object, field: str) -> list[FieldError]:
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


def _validate_unique_host_ports(containers: list[Object], field: str) -> list[FieldError]:
    errors = []
    host_ports = set()
    for index, container in enumerate(containers):
        for number, port in enumerate(container.get("ports", [])):
            host_port = f"{port['protocol']}/{port.get('hostIP', '')}/{port.get('hostPort', 0)}"
            if port.get("hostPort") and host_port in host_ports:
                errors.append(duplicate_value(f"{field}[{index}].ports[{number}].hostPort", host_port))
            host_ports.add(host_port)
    return errors
