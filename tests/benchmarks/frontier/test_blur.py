from __future__ import annotations

import numpy as np
from benchmarks.frontier.programs.blur import blurred


def test_a_weight_moves_by_half_a_step_of_its_block_at_most() -> None:
    generator = np.random.default_rng(3)
    weight = generator.standard_normal((64, 96), np.float32)
    weight[:, 32:64] *= 10
    noise = np.abs(blurred(weight, 16, generator) - weight).reshape(64, 3, 32).max(2)
    half = np.ptp(weight.reshape(64, 3, 32), axis=2) / 30
    assert np.all(noise < half * (1 + 1e-5))
    assert np.all(noise > 0.7 * half)
