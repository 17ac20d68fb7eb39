"""Environment variables of containers."""

from deploy.local.emulator.base.names import dns_subdomain_faults, environment_name_faults, label_key_faults
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


def environment_faults(variables: list[Object], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, variable in enumerate(variables):
        name = variable.get("name", "")
        if not name:
            errors.append(required_value(f"{field}[{index}].name"))
        else:
            errors += [invalid_value(f"{field}[{index}].name", name, words) for words in environment_name_faults(name)]
        if "valueFrom" in variable:
            errors += _source_faults(variable, f"{field}[{index}].valueFrom")
    return errors


def _source_faults(variable: Object, field: str) -> list[FieldError]:
    source = variable["valueFrom"]
    errors = _field_faults(source["fieldRef"], f"{field}.fieldRef") if "fieldRef" in source else []
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source:
            errors += _key_faults(source[name], f"{field}.{name}")
    if not source:
        errors.append(invalid_value(field, "", _NO_SOURCE))
    elif variable.get("value"):
        errors.append(invalid_value(field, "", "may not be specified when `value` is not empty"))
    elif len(source) > 1:
        errors.append(invalid_value(field, "", "may not have more than one field specified at a time"))
    return errors


def _field_faults(reference: Object, field: str) -> list[FieldError]:
    path = reference.get("fieldPath", "")
    if not path:
        return [required_value(f"{field}.fieldPath")]
    base, bracket, key = path.partition("['")
    if bracket and base in {"metadata.labels", "metadata.annotations"}:
        return [invalid_value(field, key[:-2], words) for words in label_key_faults(key[:-2].lower())]
    return [] if path in _FIELDS else [unsupported_value(f"{field}.fieldPath", path, _FIELDS)]


def _key_faults(reference: Object, field: str) -> list[FieldError]:
    name = reference.get("name", "")
    errors = [invalid_value(f"{field}.name", name, words) for words in dns_subdomain_faults(name)]
    return errors if reference.get("key") else [*errors, required_value(f"{field}.key")]
