"""A Pod's spec: `ValidatePodSpec` of `pkg/apis/core/validation/validation.go`, in its order."""

from deploy.local.emulator.base.names import dns_label_faults, dns_subdomain_faults
from deploy.local.emulator.base.statuses import (
    FieldError,
    Object,
    forbidden_value,
    invalid_value,
    required_value,
    unsupported_value,
)
from deploy.local.emulator.validation.containers import (
    container_faults,
    host_network_faults,
    init_container_faults,
    pod_only_faults,
)
from deploy.local.emulator.validation.metadata import NameRule, label_faults
from deploy.local.emulator.validation.security import pod_security_faults
from deploy.local.emulator.validation.tolerations import toleration_faults
from deploy.local.emulator.validation.volumes import volume_faults

_CHOICES = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
}
_NAMES: dict[str, NameRule] = {"serviceAccountName": dns_subdomain_faults, "nodeName": dns_subdomain_faults}
_HOST_NAMES: dict[str, NameRule] = {"hostname": dns_label_faults, "subdomain": dns_label_faults}
_SECONDS_MAX = 2**31 - 1


def pod_faults(spec: Object) -> list[FieldError]:
    containers, init = spec["containers"], spec.get("initContainers", [])
    volumes, errors = volume_faults(spec.get("volumes", []))
    return [
        *errors,
        *container_faults(containers, volumes),
        *init_container_faults(init, containers, volumes),
        *host_network_faults(spec),
        *_choice_faults(spec),
        *label_faults(spec.get("nodeSelector", {}), "spec.nodeSelector"),
        *pod_security_faults(spec["securityContext"], "spec.securityContext"),
        *_dns_faults(spec),
        *_name_faults(spec, _NAMES),
        *_deadline_faults(spec),
        *_name_faults(spec, _HOST_NAMES),
        *toleration_faults(spec.get("tolerations", []), "spec.tolerations"),
        *pod_only_faults(containers, "spec.containers"),
        *pod_only_faults(init, "spec.initContainers"),
    ]


def _choice_faults(spec: Object) -> list[FieldError]:
    return [
        unsupported_value(f"spec.{name}", spec[name], supported)
        for name, supported in _CHOICES.items()
        if spec[name] not in supported
    ]


def _dns_faults(spec: Object) -> list[FieldError]:
    if spec["dnsPolicy"] != "None":
        return []
    if "dnsConfig" not in spec:
        return [required_value("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")]
    if spec["dnsConfig"].get("nameservers"):
        return []
    words = "must provide at least one DNS nameserver when `dnsPolicy` is None"
    return [required_value("spec.dnsConfig.nameservers", words)]


def _name_faults(spec: Object, rules: dict[str, NameRule]) -> list[FieldError]:
    given = {name: spec[name] for name in rules if spec.get(name)}
    return [
        invalid_value(f"spec.{name}", value, words) for name, value in given.items() for words in rules[name](value)
    ]


def _deadline_faults(spec: Object) -> list[FieldError]:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is None or 1 <= seconds <= _SECONDS_MAX:
        return []
    return [invalid_value("spec.activeDeadlineSeconds", seconds, f"must be between 1 and {_SECONDS_MAX}, inclusive")]


def update_faults(old: Object, new: Object) -> list[FieldError]:
    """Almost nothing of a Pod may change once it is made."""
    errors = []
    if not all(_kept(toleration, new.get("tolerations", [])) for toleration in old.get("tolerations", [])):
        words = "existing toleration can not be modified except its tolerationSeconds"
        errors.append(forbidden_value("spec.tolerations", words))
    if _frozen(old) != _frozen(new):
        words = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        errors.append(forbidden_value("spec", words))
    return errors


def _kept(toleration: Object, tolerations: list[Object]) -> bool:
    def lasting(one: Object) -> Object:
        return {key: value for key, value in one.items() if key != "tolerationSeconds"}

    return any(lasting(toleration) == lasting(other) for other in tolerations)


def _frozen(spec: Object) -> Object:
    kept = {name: part for name, part in spec.items() if name not in {"activeDeadlineSeconds", "tolerations"}}
    for name in ("containers", "initContainers"):
        if name in kept:
            kept[name] = [{key: part for key, part in c.items() if key != "image"} for c in kept[name]]
    return kept
