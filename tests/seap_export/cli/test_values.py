"""Types of options."""

from __future__ import annotations

import pytest

from seap_export.cli.values import Ratio


@pytest.mark.parametrize(
    ("text", "ratio"), [("0.2", 0.2), ("20%", 0.2), ("33.3%", 0.333), (" 5 % ", 0.05), ("0", 0.0), (0.4, 0.4)]
)
def test_a_ratio_may_be_a_percentage(text: str | float, ratio: float) -> None:
    assert Ratio().convert(text, None, None) == ratio
