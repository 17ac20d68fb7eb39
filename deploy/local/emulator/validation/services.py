"""A Service's spec: `ValidateService` of `pkg/apis/core/validation/validation.go`, in its order."""

from deploy.local.emulator.base.names import dns_label_faults, dns_subdomain_faults
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.defaults.services import REACHED_FROM_OUTSIDE
from deploy.local.emulator.validation.metadata import label_faults
from deploy.local.emulator.validation.probes import port_faults

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITIES = ("ClientIP", "None")
_TRAFFIC = ("Cluster", "Local")
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def service_faults(spec: Object) -> list[FieldError]:
    ports, headless = spec.get("ports", []), spec.get("clusterIP") == "None"
    needs_ports = not ports and not headless and spec["type"] != "ExternalName"
    return [
        *([required_value("spec.ports")] if needs_ports else []),
        *_type_faults(spec, headless=headless),
        *_all_ports(ports),
        *label_faults(spec.get("selector", {}), "spec.selector"),
        *_choice(spec, "sessionAffinity", _AFFINITIES),
        *_choice(spec, "type", _TYPES),
        *_stray_node_ports(spec),
        *_repeated_ports(ports),
        *_external_traffic_faults(spec),
        *_choice(spec, "internalTrafficPolicy", _TRAFFIC),
    ]


def _choice(spec: Object, name: str, supported: tuple[str, ...]) -> list[FieldError]:
    if name not in spec or spec[name] in supported:
        return []
    return [unsupported_value(f"spec.{name}", spec[name], supported)]


def _type_faults(spec: Object, *, headless: bool) -> list[FieldError]:
    if headless and spec["type"] in REACHED_FROM_OUTSIDE:
        words = f"may not be set to 'None' for {spec['type']} services"
        return [invalid_value("spec.clusterIPs[0]", "None", words)]
    if spec["type"] != "ExternalName":
        return []
    if not spec.get("externalName"):
        return [required_value("spec.externalName")]
    words_for_each = dns_subdomain_faults(spec["externalName"].removesuffix("."))
    return [invalid_value("spec.externalName", spec["externalName"], words) for words in words_for_each]


def _all_ports(ports: list[Object]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        errors += _name_faults(port.get("name", ""), seen, f"{field}.name", needed=len(ports) > 1)
        errors += port_faults(port.get("port", 0), f"{field}.port")
        if port["protocol"] not in _PROTOCOLS:
            errors.append(unsupported_value(f"{field}.protocol", port["protocol"], _PROTOCOLS))
        errors += port_faults(port.get("targetPort", 0), f"{field}.targetPort")
        seen.add(port.get("name", ""))
    return errors


def _name_faults(name: str, seen: set[str], field: str, *, needed: bool) -> list[FieldError]:
    if not name:
        return [required_value(field)] if needed else []
    errors = [invalid_value(field, name, words) for words in dns_label_faults(name)]
    return [*errors, duplicate_value(field, name)] if name in seen else errors


def _stray_node_ports(spec: Object) -> list[FieldError]:
    if spec["type"] != "ClusterIP":
        return []
    words = "may not be used when `type` is 'ClusterIP'"
    given = [index for index, port in enumerate(spec.get("ports", [])) if port.get("nodePort")]
    return [forbidden_value(f"spec.ports[{index}].nodePort", words) for index in given]


def _repeated_ports(ports: list[Object]) -> list[FieldError]:
    errors = []
    seen = set()
    for index, port in enumerate(ports):
        what = (port["protocol"], port.get("port"))
        if what in seen:
            # the words show the key that is compared: a port with all else left at its zero
            key = {"protocol": port["protocol"], "port": port.get("port"), "targetPort": 0}
            errors.append(duplicate_value(f"spec.ports[{index}]", key))
        seen.add(what)
    return errors


def _external_traffic_faults(spec: Object) -> list[FieldError]:
    policy = spec.get("externalTrafficPolicy", "")
    if spec["type"] in REACHED_FROM_OUTSIDE:
        return _choice(spec, "externalTrafficPolicy", _TRAFFIC)
    words = "may only be set for externally-accessible services"
    return [invalid_value("spec.externalTrafficPolicy", policy, words)] if policy else []


def update_faults(old: Object, new: Object) -> list[FieldError]:
    """A cluster IP stays, unless the Service changes from or to ExternalName."""
    if "ExternalName" in {old["type"], new["type"]} or new.get("clusterIP") == old.get("clusterIP"):
        return []
    return [invalid_value("spec.clusterIPs[0]", new.get("clusterIPs", []), "may not change once set")]
