import pytest
from rates import rate


@pytest.mark.parametrize("pieces, wanted", [(1, 0.85), (2, 1.70), (7, 5.96), (10, 8.51), (1000, 851.0)])
def test_letters(pieces, wanted):
    assert rate("letter", pieces) == wanted


@pytest.mark.parametrize("kind", ["letter", "parcel", "bulky", "express"])
def test_whole_cents(kind):
    assert round(rate(kind, 3) * 100, 6).is_integer()
