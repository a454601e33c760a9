from __future__ import annotations

import pytest

from validation.parity.stage import round_beyond


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.0, 0.0), (0.0032, 0.0032), (0.00321, 0.0033), (9.91e-4, 0.001), (12.01, 13.0)]
)
def test_tolerances_are_rounded_up_to_two_digits(value: float, rounded: float) -> None:
    assert round_beyond(value) == rounded
    assert round_beyond(0.98765, 4, down=True) == 0.9876
