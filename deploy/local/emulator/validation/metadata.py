"""Validation of object metadata, from `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`."""

from collections.abc import Callable

from deploy.local.emulator.base.names import validate_label_key, validate_label_value
from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, required_value, too_long_value

ANNOTATIONS_MAX = 256 * 1024  # total bytes of all keys and values

_STANDARD_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")

NameRule = Callable[[str], list[str]]


def validate_metadata(metadata: Object, name_rule: NameRule) -> list[FieldError]:
    return [
        *_validate_name(metadata, name_rule),
        *validate_labels(metadata.get("labels", {}), "metadata.labels"),
        *_validate_annotations(metadata.get("annotations", {})),
        *_validate_owners(metadata.get("ownerReferences", [])),
        *_validate_finalizers(metadata.get("finalizers", [])),
    ]


def _validate_name(metadata: Object, rule: NameRule) -> list[FieldError]:
    errors = []
    if prefix := metadata.get("generateName"):
        masked = prefix[:-1] + "a" if prefix.endswith("-") else prefix
        errors = [invalid_value("metadata.generateName", prefix, detail) for detail in rule(masked)]
    name = metadata.get("name", "")
    if not name:
        return [*errors, required_value("metadata.name", "name or generateName is required")]
    return errors + [invalid_value("metadata.name", name, detail) for detail in rule(name)]


def validate_labels(labels: dict[str, str], field: str) -> list[FieldError]:
    errors = []
    for key, value in sorted(labels.items()):
        errors += [invalid_value(field, key, detail) for detail in validate_label_key(key)]
        errors += [invalid_value(field, value, detail) for detail in validate_label_value(value)]
    return errors


def _validate_annotations(annotations: dict[str, str]) -> list[FieldError]:
    field = "metadata.annotations"
    errors = []
    for key in sorted(annotations):
        errors += [invalid_value(field, key, detail) for detail in validate_label_key(key.lower())]
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    return [*errors, too_long_value(field, ANNOTATIONS_MAX)] if size > ANNOTATIONS_MAX else errors


def _validate_owners(references: list[Object]) -> list[FieldError]:
    """Validate owner references. The real server names these fields without an index."""
    field = "metadata.ownerReferences"
    errors = [error for reference in references for error in _validate_owner(reference, field)]
    controllers = [f"{r.get('kind')}/{r.get('name')}" for r in references if r.get("controller")]
    if len(controllers) > 1:
        owners = f'Found "true" in references for {controllers[0]} and {controllers[1]}'
        errors.append(invalid_value(field, references, f"Only one reference can have Controller set to true. {owners}"))
    return errors


def _validate_owner(reference: Object, field: str) -> list[FieldError]:
    version = reference.get("apiVersion", "")
    errors = [] if version else [invalid_value(f"{field}.apiVersion", version, "version must not be empty")]
    missing = [name for name in ("kind", "name", "uid") if not reference.get(name)]
    return errors + [invalid_value(f"{field}.{name}", "", f"{name} must not be empty") for name in missing]


def _validate_finalizers(finalizers: list[str]) -> list[FieldError]:
    errors = []
    for name in finalizers:
        errors += [invalid_value("metadata.finalizers", name, detail) for detail in validate_label_key(name)]
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(invalid_value("metadata.finalizers", name, detail))
    return errors
