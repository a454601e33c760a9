from __future__ import annotations

import pytest

from seap_export.pipeline.targets.guess import USUAL, Guess

GUESS = Guess(((2.0, 0.64), (3.0, 0.16), (5.0, 0.01)), ((0.1, 0.02), (0.2, 0.08)))


def test_rounding_is_exponential_between_and_beyond_what_is_known() -> None:
    bits = [1.0, 2.0, 2.5, 3.0, 4.0, 7.0]
    assert [GUESS.of_rounding(each) for each in bits] == pytest.approx([2.56, 0.64, 0.32, 0.16, 0.04, 0.000625])


def test_pruning_is_a_power_of_the_ratio() -> None:
    ratios = [0.0, 0.05, 0.1, 0.2, 0.4]
    assert [GUESS.of_pruning(each) for each in ratios] == pytest.approx([0.0, 0.005, 0.02, 0.08, 0.32])
    assert USUAL.of_pruning(0.5) == pytest.approx(0.4)
    assert USUAL.of_pruning(0.125) == pytest.approx(0.05)


def test_it_is_read_as_it_was_written() -> None:
    assert Guess.read(GUESS.to_json()) == GUESS
    for values in ({"rounded": [[2.0, 0.1]], "pruned": [[0.1, 0.1]]}, {"rounded": [[2, 1], [3, 1]], "pruned": []}):
        with pytest.raises(ValueError, match="guess"):
            Guess.read(values)
