"""Validation of environment variables."""

from deploy.local.emulator.base.names import validate_dns_subdomain, validate_environment_name, validate_label_key
from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, required_value, unsupported_value

_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_NO_SOURCE = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"


def validate_environment(variables: list[Object], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, variable in enumerate(variables):
        name = variable.get("name", "")
        if not name:
            errors.append(required_value(f"{field}[{index}].name"))
        else:
            errors += [
                invalid_value(f"{field}[{index}].name", name, detail) for detail in validate_environment_name(name)
            ]
        if "valueFrom" in variable:
            errors += _validate_source(variable, f"{field}[{index}].valueFrom")
    return errors


def _validate_source(variable: Object, field: str) -> list[FieldError]:
    source = variable["valueFrom"]
    errors = _validate_field(source["fieldRef"], f"{field}.fieldRef") if "fieldRef" in source else []
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source:
            errors += _validate_key(source[name], f"{field}.{name}")
    if not source:
        errors.append(invalid_value(field, "", _NO_SOURCE))
    elif variable.get("value"):
        errors.append(invalid_value(field, "", "may not be specified when `value` is not empty"))
    elif len(source) > 1:
        errors.append(invalid_value(field, "", "may not have more than one field specified at a time"))
    return errors


def _validate_field(reference: Object, field: str) -> list[FieldError]:
    path = reference.get("fieldPath", "")
    if not path:
        return [required_value(f"{field}.fieldPath")]
    base, bracket, key = path.partition("['")
    if bracket and base in {"metadata.labels", "metadata.annotations"}:
        return [invalid_value(field, key[:-2], detail) for detail in validate_label_key(key[:-2].lower())]
    return [] if path in _FIELDS else [unsupported_value(f"{field}.fieldPath", path, _FIELDS)]


def _validate_key(reference: Object, field: str) -> list[FieldError]:
    name = reference.get("name", "")
    errors = [invalid_value(f"{field}.name", name, detail) for detail in validate_dns_subdomain(name)]
    return errors if reference.get("key") else [*errors, required_value(f"{field}.key")]
