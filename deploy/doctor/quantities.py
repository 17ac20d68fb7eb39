"""Quantities of Kubernetes, as resource quotas show them: `100m`, `256Mi`, `2`, `1e3`."""

import re
from decimal import Decimal

_PATTERN = re.compile(r"^([+-]?[0-9.]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def amount(text: str) -> Decimal:
    """Return a quantity as a number.

    Raises:
        ValueError: `text` is not a quantity.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise ValueError(f"expected a quantity, got {text!r}")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1024) ** _BINARY.index(suffix)
    return number.scaleb(_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
