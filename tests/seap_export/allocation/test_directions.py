"""Directions are independent, and no step at all changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from seap_export.allocation.directions import directions, multipliers


@pytest.mark.parametrize("layers", [1, 2, 30])
def test_no_steps_change_nothing(layers: int) -> None:
    assert (multipliers(layers, {}) == np.ones((layers, 2))).all()
    assert all(own.shape == (layers, 2) for own in directions(layers).values())


def test_directions_are_independent() -> None:
    own = np.stack([direction.ravel() for direction in directions(30).values()])
    assert np.linalg.matrix_rank(own) == len(own)
    similar = np.corrcoef(own) - np.eye(len(own))
    assert np.abs(np.nan_to_num(similar)).max() < 0.2


def test_a_step_of_1_by_depth() -> None:
    own = multipliers(12, {"depth": 1.0})
    assert own[-1] / own[0] == pytest.approx(np.exp([2.0, 2.0]))
    assert np.divide(*multipliers(12, {"heads": 1.0}).T) == pytest.approx(np.e)
