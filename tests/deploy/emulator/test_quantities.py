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


@pytest.mark.parametrize(("text", "wanted"), CANONICAL)
def test_canonical_form(text: str | float, wanted: str):
    """As `resource.Quantity` gives them back."""
    assert to_canonical(text) == wanted
    assert parse_quantity(text) == parse_quantity(wanted)


@pytest.mark.parametrize("text", ["lots", "", "1GB", "1 Gi", "--1", "1.2.3"])
def test_not_a_quantity(text: str):
    with pytest.raises(InvalidQuantity):
        parse_quantity(text)
