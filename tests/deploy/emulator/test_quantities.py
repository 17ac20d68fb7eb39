import pytest

from deploy.local.emulator.base.quantities import InvalidQuantity, parse_quantity, to_canonical

CANONICAL = [
    ("0.5", "500m"),
    ("1000m", "1"),
    ("1024Mi", "1Gi"),
    ("1536Mi", "1536Mi"),
    ("0", "0"),
    ("0Mi", "0"),
    ("1e3", "1e3"),
    ("100000", "100k"),
    ("1.5Gi", "1536Mi"),
    (2, "2"),
    ("0.1Ki", "102400m"),
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL)
def test_quantity_gets_canonical_form(text: str | float, canonical: str):
    """The forms are those of `resource.Quantity`."""
    assert to_canonical(text) == canonical
    assert parse_quantity(text) == parse_quantity(canonical)


@pytest.mark.parametrize("text", ["lots", "", "1GB", "1 Gi", "--1", "1.2.3"])
def test_invalid_quantity_raises(text: str):
    with pytest.raises(InvalidQuantity):
        parse_quantity(text)
