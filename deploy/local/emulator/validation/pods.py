"""Validation of a Pod's spec, in the order of `ValidatePodSpec` in `pkg/apis/core/validation/validation.go`."""

from deploy.local.emulator.base.names import validate_dns_label, validate_dns_subdomain
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.validation.containers import (
    validate_containers,
    validate_host_network,
    validate_images,
    validate_init_containers,
)
from deploy.local.emulator.validation.metadata import NameRule, validate_labels
from deploy.local.emulator.validation.security import validate_pod_security
from deploy.local.emulator.validation.tolerations import validate_tolerations
from deploy.local.emulator.validation.volumes import validate_volumes

_CHOICES = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
}
_NAMES: dict[str, NameRule] = {"serviceAccountName": validate_dns_subdomain, "nodeName": validate_dns_subdomain}
_HOST_NAMES: dict[str, NameRule] = {"hostname": validate_dns_label, "subdomain": validate_dns_label}
_SECONDS_MAX = 2**31 - 1


def validate_pod_spec(spec: Object) -> list[FieldError]:
    containers, init = spec["containers"], spec.get("initContainers", [])
    volumes, errors = validate_volumes(spec.get("volumes", []))
    return [
        *errors,
        *validate_containers(containers, volumes),
        *validate_init_containers(init, containers, volumes),
        *validate_host_network(spec),
        *_validate_choices(spec),
        *validate_labels(spec.get("nodeSelector", {}), "spec.nodeSelector"),
        *validate_pod_security(spec["securityContext"], "spec.securityContext"),
        *_validate_dns(spec),
        *_validate_name(spec, _NAMES),
        *_validate_deadline(spec),
        *_validate_name(spec, _HOST_NAMES),
        *validate_tolerations(spec.get("tolerations", []), "spec.tolerations"),
        *validate_images(containers, "spec.containers"),
        *validate_images(init, "spec.initContainers"),
    ]


def _validate_choices(spec: Object) -> list[FieldError]:
    return [
        unsupported_value(f"spec.{name}", spec[name], supported)
        for name, supported in _CHOICES.items()
        if spec[name] not in supported
    ]


def _validate_dns(spec: Object) -> list[FieldError]:
    if spec["dnsPolicy"] != "None":
        return []
    if "dnsConfig" not in spec:
        return [required_value("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")]
    if spec["dnsConfig"].get("nameservers"):
        return []
    detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
    return [required_value("spec.dnsConfig.nameservers", detail)]


def _validate_name(spec: Object, rules: dict[str, NameRule]) -> list[FieldError]:
    names = {name: spec[name] for name in rules if spec.get(name)}
    return [
        invalid_value(f"spec.{name}", value, detail) for name, value in names.items() for detail in rules[name](value)
    ]


def _validate_deadline(spec: Object) -> list[FieldError]:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is None or 1 <= seconds <= _SECONDS_MAX:
        return []
    return [invalid_value("spec.activeDeadlineSeconds", seconds, f"must be between 1 and {_SECONDS_MAX}, inclusive")]


def validate_update(old: Object, new: Object) -> list[FieldError]:
    """Validate an update. Almost all fields of a Pod are immutable."""
    errors = []
    if not all(_has_toleration(toleration, new.get("tolerations", [])) for toleration in old.get("tolerations", [])):
        detail = "existing toleration can not be modified except its tolerationSeconds"
        errors.append(forbidden_value("spec.tolerations", detail))
    if _immutable_fields(old) != _immutable_fields(new):
        detail = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        errors.append(forbidden_value("spec", detail))
    return errors


def _has_toleration(toleration: Object, tolerations: list[Object]) -> bool:
    def comparable(toleration: Object) -> Object:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    return any(comparable(toleration) == comparable(other) for other in tolerations)


def _immutable_fields(spec: Object) -> Object:
    fields = {name: part for name, part in spec.items() if name not in {"activeDeadlineSeconds", "tolerations"}}
    for name in ("containers", "initContainers"):
        if name in fields:
            fields[name] = [{key: part for key, part in c.items() if key != "image"} for c in fields[name]]
    return fields
