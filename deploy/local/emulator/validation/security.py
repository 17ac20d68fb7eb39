"""Validation of security contexts: contradictions and ranges. Pod security admission checks the namespace's level."""

from deploy.local.emulator.base.statuses import FieldError, Object, invalid_value, required_value, unsupported_value

_ID_MAX = 2**31 - 1
_ID_RANGE = f"must be between 0 and {_ID_MAX}, inclusive"
_SECCOMP = ("Localhost", "RuntimeDefault", "Unconfined")
_GROUP_POLICIES = ("Always", "OnRootMismatch")
_SYS_ADMIN = ("CAP_SYS_ADMIN", "SYS_ADMIN")


def validate_container_security(context: Object, field: str) -> list[FieldError]:
    return [*_validate_shared(context, field), *_validate_escalation(context, field)]


def validate_pod_security(context: Object, field: str) -> list[FieldError]:
    groups = {"fsGroup": context.get("fsGroup", 0)}
    groups |= {
        f"supplementalGroups[{index}]": group for index, group in enumerate(context.get("supplementalGroups", []))
    }
    errors = [invalid_value(f"{field}.{name}", group, _ID_RANGE) for name, group in groups.items() if not _is_id(group)]
    policy = context.get("fsGroupChangePolicy")
    if policy is not None and policy not in _GROUP_POLICIES:
        errors.append(unsupported_value(f"{field}.fsGroupChangePolicy", policy, _GROUP_POLICIES))
    return errors + _validate_shared(context, field)


def _is_id(number: int) -> bool:
    return 0 <= number <= _ID_MAX


def _validate_shared(context: Object, field: str) -> list[FieldError]:
    names = ("runAsUser", "runAsGroup")
    errors = [invalid_value(f"{field}.{n}", context[n], _ID_RANGE) for n in names if not _is_id(context.get(n, 0))]
    profile = context.get("seccompProfile")
    if profile is None:
        return errors
    kind = profile.get("type", "")
    if not kind:
        errors.append(required_value(f"{field}.seccompProfile.type", "type is required when seccompProfile is set"))
    elif kind not in _SECCOMP:
        errors.append(unsupported_value(f"{field}.seccompProfile.type", kind, _SECCOMP))
    elif kind == "Localhost" and not profile.get("localhostProfile"):
        detail = "must be set when seccomp type is Localhost"
        errors.append(required_value(f"{field}.seccompProfile.localhostProfile", detail))
    return errors


def _validate_escalation(context: Object, field: str) -> list[FieldError]:
    if context.get("allowPrivilegeEscalation") is not False:
        return []
    errors = []
    if context.get("privileged"):
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        errors.append(invalid_value(field, context, detail))
    if any(name in _SYS_ADMIN for name in context.get("capabilities", {}).get("add", [])):
        detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
        errors.append(invalid_value(field, context, detail))
    return errors
