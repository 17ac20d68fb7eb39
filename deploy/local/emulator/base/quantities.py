"""Quantities: parsing, and the canonical form in which the API server returns them."""

import re
from decimal import ROUND_UP, Decimal

_PATTERN = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|(?:[eE][+-]?\d+))?$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX_OF_EXPONENT = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_NANO = Decimal("1e-9")
_THOUSAND = 1000
_KIBI = 1024


class InvalidQuantity(ValueError):
    """The text is not a quantity. The message is that of `resource.ErrFormatWrong`."""

    def __init__(self) -> None:
        super().__init__("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")


def parse_quantity(text: str | float) -> Decimal:
    """Return the value, rounded up to a nano as in Kubernetes."""
    number, suffix = _split(text)
    value: Decimal
    if suffix in _BINARY:
        value = number * _KIBI ** _BINARY[suffix]
    elif suffix[:1] in {"e", "E"} and len(suffix) > 1:
        value = number.scaleb(int(suffix[1:]))
    else:
        value = number.scaleb(_DECIMAL[suffix])
    rounded = value.quantize(_NANO, rounding=ROUND_UP)
    return rounded if rounded != value else value


def to_canonical(text: str | float) -> str:
    """Return the same amount with the largest suffix that leaves no fraction: 500m for 0.5, 1Gi for 1024Mi."""
    value, suffix = parse_quantity(text), _split(text)[1]
    if suffix in _BINARY and value == value.to_integral_value():
        return _format_binary(int(value))
    exponent = _exponent(value)
    if suffix[:1] in {"e", "E"} and len(suffix) > 1:
        return f"{value.scaleb(-exponent):f}" + (f"e{exponent}" if exponent else "")
    return f"{int(value.scaleb(-exponent))}{_SUFFIX_OF_EXPONENT[exponent]}"


def format_amount(value: Decimal, name: str) -> str:
    """Format an amount of a resource: memory with binary suffixes, all else with decimal ones."""
    if name.endswith("memory") and value == value.to_integral_value():
        return _format_binary(int(value))
    return to_canonical(f"{value:f}")


def _split(text: str | float) -> tuple[Decimal, str]:
    match = _PATTERN.match(text if isinstance(text, str) else repr(text))
    if not match:
        raise InvalidQuantity
    return Decimal(match[1]), match[2] or ""


def _format_binary(value: int) -> str:
    names, power = ["", *_BINARY], 0
    while value and value % _KIBI == 0 and power < len(_BINARY):
        value, power = value // _KIBI, power + 1
    return f"{value}{names[power]}"


def _exponent(value: Decimal) -> int:
    """Return the largest multiple of three, from nano to exa, that leaves a whole number."""
    scaled, exponent = value.scaleb(9), -9
    while scaled and scaled % _THOUSAND == 0 and exponent < max(_SUFFIX_OF_EXPONENT):
        scaled, exponent = scaled / _THOUSAND, exponent + 3
    return exponent if scaled else 0
