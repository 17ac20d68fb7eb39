"""Tolerations: `ValidateTolerations`."""

from deploy.local.emulator.base.names import label_key_faults, label_value_faults
from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, unsupported_value

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_OPERATORS = ("Equal", "Exists")


def toleration_faults(tolerations: list[Object], field: str) -> list[FieldError]:
    return [error for index, one in enumerate(tolerations) for error in _faults(one, f"{field}[{index}]")]


def _faults(toleration: Object, field: str) -> list[FieldError]:
    key, operator, effect = (toleration.get(name, "") for name in ("key", "operator", "effect"))
    errors = [invalid_value(f"{field}.key", key, words) for words in label_key_faults(key)] if key else []
    if not key and operator != "Exists":
        words = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        errors.append(invalid_value(f"{field}.operator", operator, words))
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        words = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        errors.append(invalid_value(f"{field}.effect", effect, words))
    errors += _value_faults(toleration.get("value", ""), operator, f"{field}.operator")
    return errors if effect in {"", *_EFFECTS} else [*errors, unsupported_value(f"{field}.effect", effect, _EFFECTS)]


def _value_faults(value: str, operator: str, field: str) -> list[FieldError]:
    if operator in {"", "Equal"}:
        words = label_value_faults(value)
        return [invalid_value(field, value, ";".join(words))] if words else []
    if operator == "Exists":
        return [invalid_value(field, value, "value must be empty when `operator` is 'Exists'")] if value else []
    return [unsupported_value(field, operator, _OPERATORS)]
