"""Validation of a Service's spec, in the order of `ValidateService` in `pkg/apis/core/validation/validation.go`."""

from deploy.local.emulator.base.names import validate_dns_label, validate_dns_subdomain
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.defaults.services import NODE_PORT_TYPES
from deploy.local.emulator.validation.metadata import validate_labels
from deploy.local.emulator.validation.probes import validate_port

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITIES = ("ClientIP", "None")
_TRAFFIC = ("Cluster", "Local")
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def validate_service_spec(spec: Object) -> list[FieldError]:
    ports, headless = spec.get("ports", []), spec.get("clusterIP") == "None"
    needs_ports = not ports and not headless and spec["type"] != "ExternalName"
    return [
        *([required_value("spec.ports")] if needs_ports else []),
        *_validate_type(spec, headless=headless),
        *_validate_ports(ports),
        *validate_labels(spec.get("selector", {}), "spec.selector"),
        *_validate_choice(spec, "sessionAffinity", _AFFINITIES),
        *_validate_choice(spec, "type", _TYPES),
        *_validate_no_node_ports(spec),
        *_validate_unique_ports(ports),
        *_validate_external_traffic(spec),
        *_validate_choice(spec, "internalTrafficPolicy", _TRAFFIC),
    ]


def _validate_choice(spec: Object, name: str, supported: tuple[str, ...]) -> list[FieldError]:
    if name not in spec or spec[name] in supported:
        return []
    return [unsupported_value(f"spec.{name}", spec[name], supported)]


def _validate_type(spec: Object, *, headless: bool) -> list[FieldError]:
    if headless and spec["type"] in NODE_PORT_TYPES:
        detail = f"may not be set to 'None' for {spec['type']} services"
        return [invalid_value("spec.clusterIPs[0]", "None", detail)]
    if spec["type"] != "ExternalName":
        return []
    if not spec.get("externalName"):
        return [required_value("spec.externalName")]
    words_for_each = validate_dns_subdomain(spec["externalName"].removesuffix("."))
    return [invalid_value("spec.externalName", spec["externalName"], detail) for detail in words_for_each]


def _validate_ports(ports: list[Object]) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        errors += _validate_name(port.get("name", ""), names, f"{field}.name", is_required=len(ports) > 1)
        errors += validate_port(port.get("port", 0), f"{field}.port")
        if port["protocol"] not in _PROTOCOLS:
            errors.append(unsupported_value(f"{field}.protocol", port["protocol"], _PROTOCOLS))
        errors += validate_port(port.get("targetPort", 0), f"{field}.targetPort")
        names.add(port.get("name", ""))
    return errors


def _validate_name(name: str, names: set[str], field: str, *, is_required: bool) -> list[FieldError]:
    if not name:
        return [required_value(field)] if is_required else []
    errors = [invalid_value(field, name, detail) for detail in validate_dns_label(name)]
    return [*errors, duplicate_value(field, name)] if name in names else errors


def _validate_no_node_ports(spec: Object) -> list[FieldError]:
    if spec["type"] != "ClusterIP":
        return []
    detail = "may not be used when `type` is 'ClusterIP'"
    indexes = [index for index, port in enumerate(spec.get("ports", [])) if port.get("nodePort")]
    return [forbidden_value(f"spec.ports[{index}].nodePort", detail) for index in indexes]


def _validate_unique_ports(ports: list[Object]) -> list[FieldError]:
    errors = []
    port_keys = set()
    for index, port in enumerate(ports):
        port_key = (port["protocol"], port.get("port"))
        if port_key in port_keys:
            # the message shows the compared key: a port with zeros in all other fields
            key = {"protocol": port["protocol"], "port": port.get("port"), "targetPort": 0}
            errors.append(duplicate_value(f"spec.ports[{index}]", key))
        port_keys.add(port_key)
    return errors


def _validate_external_traffic(spec: Object) -> list[FieldError]:
    policy = spec.get("externalTrafficPolicy", "")
    if spec["type"] in NODE_PORT_TYPES:
        return _validate_choice(spec, "externalTrafficPolicy", _TRAFFIC)
    detail = "may only be set for externally-accessible services"
    return [invalid_value("spec.externalTrafficPolicy", policy, detail)] if policy else []


def validate_update(old: Object, new: Object) -> list[FieldError]:
    """Validate an update. The cluster IP is immutable, unless the type changes from or to ExternalName."""
    if "ExternalName" in {old["type"], new["type"]} or new.get("clusterIP") == old.get("clusterIP"):
        return []
    return [invalid_value("spec.clusterIPs[0]", new.get("clusterIPs", []), "may not change once set")]
