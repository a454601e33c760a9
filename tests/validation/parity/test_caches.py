from __future__ import annotations

import numpy as np
import pytest

from validation.parity.caches import CacheComparison

Layers = list[dict[str, np.ndarray]]


def layers() -> Layers:
    """Two layers of two heads, three tokens, four numbers each; keys are 1, values 10."""
    ones = np.ones((2, 3, 4), np.float32)
    return [{"key": ones.copy(), "value": 10 * ones} for _ in range(2)]


def compared(*rows: tuple[Layers, Layers]) -> CacheComparison:
    comparison = CacheComparison()
    for row, (wanted, layers) in enumerate(rows):
        comparison.update(enumerate(wanted), layers, row)
    return comparison


def test_the_error_is_relative_to_the_layers_own_size() -> None:
    keys, values = layers(), layers()
    assert compared((layers(), layers())).figures().error == 0.0
    keys[1]["key"][0, 2, 3] += 0.5
    values[0]["value"][1, 0, 0] += 0.6
    figures = compared((layers(), keys), (layers(), values)).figures()
    assert (figures.error, figures.layer, figures.part, figures.defect) == (0.5, 1, "key", "")
    assert figures.max_abs == pytest.approx(0.6)
    uneven = np.array([[[3.0, 4.0]]], np.float32)
    figures = compared(([{"key": uneven}], [{"key": uneven + 0.5}])).figures()
    assert figures.error == pytest.approx(0.5 / 12.5**0.5)  # the root mean square, not the largest


def test_another_shape_and_numbers_that_are_none_are_defects() -> None:
    short = [{**layer, "key": layer["key"][:, :2]} for layer in layers()]
    assert compared((layers(), short)).figures().defect == (
        "a cache of shape [2, 2, 4] in the keys of layer 0, row 0, expected [2, 3, 4]"
    )
    broken = layers()
    broken[1]["value"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="shorter"):
        compared((layers(), layers()[:1]))
    assert compared((layers(), layers()), (layers(), broken)).figures().defect == (
        "NaN or Inf in the values of layer 1, row 1"
    )


def test_a_state_that_the_reference_does_not_have_is_not_compared() -> None:
    state = np.ones((5, 2), np.float32)
    figures = compared(([{"conv": state}, {}], [{"conv": state + 0.25}, {"conv": state}])).figures()
    assert (figures.error, figures.where) == (0.25, "in the conv state of layer 0")
