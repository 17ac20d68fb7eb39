"""Validation of tolerations, from `ValidateTolerations`."""

from deploy.local.emulator.base.names import validate_label_key, validate_label_value
from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, unsupported_value

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_OPERATORS = ("Equal", "Exists")


def validate_tolerations(tolerations: list[Object], field: str) -> list[FieldError]:
    return [
        error for index, toleration in enumerate(tolerations) for error in _validate(toleration, f"{field}[{index}]")
    ]


def _validate(toleration: Object, field: str) -> list[FieldError]:
    key, operator, effect = (toleration.get(name, "") for name in ("key", "operator", "effect"))
    errors = [invalid_value(f"{field}.key", key, detail) for detail in validate_label_key(key)] if key else []
    if not key and operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        errors.append(invalid_value(f"{field}.operator", operator, detail))
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        errors.append(invalid_value(f"{field}.effect", effect, detail))
    errors += _validate_value(toleration.get("value", ""), operator, f"{field}.operator")
    return errors if effect in {"", *_EFFECTS} else [*errors, unsupported_value(f"{field}.effect", effect, _EFFECTS)]


def _validate_value(value: str, operator: str, field: str) -> list[FieldError]:
    if operator in {"", "Equal"}:
        detail = validate_label_value(value)
        return [invalid_value(field, value, ";".join(detail))] if detail else []
    if operator == "Exists":
        return [invalid_value(field, value, "value must be empty when `operator` is 'Exists'")] if value else []
    return [unsupported_value(field, operator, _OPERATORS)]
