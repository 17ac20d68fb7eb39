"""Validation of requests and limits."""

from deploy.local.emulator.base.quantities import parse_quantity
from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, required_value

_STANDARD = ("cpu", "memory", "ephemeral-storage")


def validate_resources(resources: Object, field: str) -> list[FieldError]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    errors: list[FieldError] = []
    for name in sorted(limits):
        errors += _validate_amount(name, limits[name], f"{field}.limits[{name}]")
    for name in sorted(requests):
        errors += _validate_amount(name, requests[name], f"{field}.requests[{name}]")
        errors += _validate_request(name, requests[name], limits.get(name), field)
    return errors


def _validate_amount(name: str, text: str, field: str) -> list[FieldError]:
    errors = []
    if "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
        errors.append(invalid_value(field, name, "must be a standard resource type or fully qualified"))
        errors.append(invalid_value(field, name, "must be a standard resource for containers"))
    if parse_quantity(text) < 0:
        errors.append(invalid_value(field, text, "must be greater than or equal to 0"))
    if "/" in name and parse_quantity(text) != parse_quantity(text).to_integral_value():
        errors.append(invalid_value(field, text, "must be an integer"))
    return errors


def _validate_request(name: str, text: str, limit: str | None, field: str) -> list[FieldError]:
    """Validate a request against its limit. For devices and huge pages both must be equal."""
    shareable = name in _STANDARD
    if limit is None:
        detail = "Limit must be set for non overcommitable resources"
        return [] if shareable else [required_value(f"{field}.limits", detail)]
    if not shareable and parse_quantity(text) != parse_quantity(limit):
        return [invalid_value(f"{field}.requests", text, f"must be equal to {name} limit of {limit}")]
    if parse_quantity(text) > parse_quantity(limit):
        return [invalid_value(f"{field}.requests", text, f"must be less than or equal to {name} limit of {limit}")]
    return []
