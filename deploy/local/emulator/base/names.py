"""Rules for names, labels and annotations, from `k8s.io/apimachinery/pkg/util/validation`, 1.36."""

import re

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[-a-z0-9]+")
_ENVIRONMENT_NAME = re.compile(r"[ -<>-~]+")

NAME_MAX = 63
SUBDOMAIN_MAX = 253
PORT_NAME_MAX = 15

_DNS_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_DNS_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_LABEL_NAME_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_KEY_MESSAGE = (
    "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' "
    "(e.g. 'example.com/MyName')"
)


def _too_long(value: str, limit: int, unit: str) -> list[str]:
    return [f"must be no more than {limit} {unit}"] if len(value.encode()) > limit else []


def validate_dns_label(value: str, unit: str = "bytes") -> list[str]:
    errors = [] if _DNS_LABEL.fullmatch(value) else [_DNS_LABEL_MESSAGE]
    return _too_long(value, NAME_MAX, unit) + errors


def validate_dns_subdomain(value: str) -> list[str]:
    errors = [] if _DNS_SUBDOMAIN.fullmatch(value) else [_DNS_SUBDOMAIN_MESSAGE]
    return _too_long(value, SUBDOMAIN_MAX, "bytes") + errors


def validate_label_value(value: str) -> list[str]:
    errors = [] if not value or _LABEL_NAME.fullmatch(value) else [_LABEL_VALUE_MESSAGE]
    return _too_long(value, NAME_MAX, "bytes") + errors


def validate_label_key(key: str) -> list[str]:
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return [_LABEL_KEY_MESSAGE]
    errors = [f"prefix part {error}" for error in _validate_prefix(prefix)] if slash else []
    if not name:
        return [*errors, "name part must be non-empty", _LABEL_NAME_MESSAGE]
    errors += [f"name part {error}" for error in _too_long(name, NAME_MAX, "bytes")]
    return errors if _LABEL_NAME.fullmatch(name) else [*errors, _LABEL_NAME_MESSAGE]


def _validate_prefix(prefix: str) -> list[str]:
    return validate_dns_subdomain(prefix) if prefix else ["must be non-empty"]


def validate_port_name(value: str) -> list[str]:
    """Check the name of a port, an IANA service name."""
    errors = [f"must be no more than {PORT_NAME_MAX} characters"] if len(value) > PORT_NAME_MAX else []
    if not _PORT_NAME.fullmatch(value):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any(letter.isalpha() for letter in value):
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def validate_environment_name(value: str) -> list[str]:
    """Allow any printable ASCII but `=`, as since 1.34 (RelaxedEnvironmentVariableValidation)."""
    if _ENVIRONMENT_NAME.fullmatch(value):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]
