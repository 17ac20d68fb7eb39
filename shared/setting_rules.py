"""Rules for values of settings, each with the words that a person reads when a value breaks the rule."""

from enum import StrEnum
from typing import Any

from msgspec import Meta


def doc(text: str, *, secret: bool = False) -> Meta:
    """Describe a setting in one line; a `secret` value is masked wherever settings are shown."""
    return Meta(description=text, extra={"secret": secret})


def pattern(regex: str, expected: str) -> Meta:
    """Restrict a text. Error messages show `expected`, in words, and never the regular expression."""
    return Meta(pattern=regex, extra={"expected": expected})


COUNT = Meta(ge=0, le=1_000_000)
NOT_NEGATIVE = Meta(ge=0, le=1_000_000_000)
POSITIVE = Meta(gt=0, le=86400)
"""Seconds, at most a day: a longer time is a typing error."""
INTERVAL = Meta(ge=0.1, le=3600)
"""Seconds between two runs: more often would keep Redis busy, more rarely would look like a hang."""
JOB_COUNT = Meta(ge=1, le=1000)
REQUEST_COUNT = Meta(ge=1)
PORT = Meta(ge=1, le=65535)
PORT_OR_NONE = Meta(ge=0, le=65535)
HOST = pattern(
    r"^([A-Za-z0-9_][-A-Za-z0-9_.]*|[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$",
    "a host name or IP address, without scheme, brackets, port, path or blanks",
)
"""An IPv6 address has two colons or more. One colon separates a host from a port."""
HEADER_VALUE = pattern(r"^[!-~]*$", "printable ASCII characters without blanks, as an HTTP header carries them")
DNS_LABEL_WORDS = "a DNS label: lowercase letters, digits and `-`, at most 63 characters, no `-` at either end"
DNS_LABEL = pattern(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", DNS_LABEL_WORDS)
NAMESPACE = pattern(
    r"^(?!kube-(system|public|node-lease)$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    f"{DNS_LABEL_WORDS}; not a namespace of Kubernetes itself",
)
CLAIM = pattern(
    r"^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    "the name of a PersistentVolumeClaim: lowercase letters, digits, `-` and `.`, at most 253 characters",
)
IMAGE = pattern(r"^\S+$", "an image reference without blanks")
URL_PATH = pattern(r"^(/[^\s]*)?$", "a path that begins with `/` and has no blanks")


def spelled(annotated: Any, text: str) -> str:
    """Return a value of an enum as the enum spells it, and any other text as it is."""
    kind = annotated.__origin__
    if not issubclass(kind, StrEnum):
        return text
    return next((str(value) for value in kind if value.casefold() == text.casefold()), text)


def allowed_values(annotated: Any) -> str:
    """Return in words what a setting of the type `Annotated[…, rule]` can be."""
    kind, metas = annotated.__origin__, annotated.__metadata__
    if words := next((meta.extra["expected"] for meta in metas if "expected" in (meta.extra or {})), ""):
        return str(words)
    if kind is bool:
        return "`true` or `false`"
    if issubclass(kind, StrEnum):
        return " or ".join(f"`{value}`" for value in kind)
    return ("a whole number" if kind is int else "a number") + "".join(map(_range, metas))


def _range(meta: Meta) -> str:
    if meta.gt is not None:
        return f" above {meta.gt}, at most {meta.le}"
    if meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    return "" if meta.ge is None else f" of at least {meta.ge}"
