"""Validation of probes and lifecycle handlers."""

from deploy.local.emulator.base.names import validate_port_name
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_SCHEMES = ("HTTP", "HTTPS")
_PORT_MAX = 65535
_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def validate_probe(probe: Object, field: str, *, readiness: bool) -> list[FieldError]:
    errors = validate_handler(probe, field)
    for name in _NUMBERS:
        if probe.get(name, 0) < 0:
            errors.append(invalid_value(f"{field}.{name}", probe[name], "must be greater than or equal to 0"))
    grace, grace_field = probe.get("terminationGracePeriodSeconds"), f"{field}.terminationGracePeriodSeconds"
    if grace is not None and grace <= 0:
        errors.append(invalid_value(grace_field, grace, "must be greater than 0"))
    if readiness and grace is not None:
        errors.append(invalid_value(grace_field, grace, "must not be set for readinessProbes"))
    if not readiness and probe["successThreshold"] != 1:
        errors.append(invalid_value(f"{field}.successThreshold", probe["successThreshold"], "must be 1"))
    return errors


def validate_handler(handler: Object, field: str) -> list[FieldError]:
    handlers = [name for name in _HANDLERS if name in handler]
    if not handlers:
        return [required_value(field, "must specify a handler type")]
    first = handlers[0]
    errors = []
    if first == "exec" and not handler["exec"].get("command"):
        errors.append(required_value(f"{field}.exec.command"))
    elif first == "httpGet":
        errors += _validate_http(handler["httpGet"], f"{field}.httpGet")
    elif first in {"tcpSocket", "grpc"}:
        errors += validate_port(handler[first].get("port", 0), f"{field}.{first}.port")
    return errors + [forbidden_value(f"{field}.{n}", "may not specify more than 1 handler type") for n in handlers[1:]]


def _validate_http(handler: Object, field: str) -> list[FieldError]:
    errors = validate_port(handler.get("port", 0), f"{field}.port")
    if handler["scheme"] not in _SCHEMES:
        errors.append(unsupported_value(f"{field}.scheme", handler["scheme"], _SCHEMES))
    return errors


def validate_port(port: int | str, field: str) -> list[FieldError]:
    """Validate the number or the name of a port."""
    if isinstance(port, str):
        return [invalid_value(field, port, detail) for detail in validate_port_name(port)]
    return [] if 0 < port <= _PORT_MAX else [invalid_value(field, port, "must be between 1 and 65535, inclusive")]
