"""Validation of PersistentVolumeClaims: the required fields."""

from deploy.local.emulator.base.statuses import FieldError, Object, required_value


def validate_volume_claim_spec(spec: Object) -> list[FieldError]:
    errors = [] if spec.get("accessModes") else [_NO_MODE]
    stored = spec.get("resources", {}).get("requests", {}).get("storage")
    return errors if stored else [*errors, required_value("spec.resources[storage]")]


_NO_MODE = required_value("spec.accessModes", "at least 1 access mode is required")
