"""A divergence whose mean and standard error are known."""

from __future__ import annotations

import numpy as np

from validation.estimate import TokenEstimate


def kl_estimate(mean: float, stderr: float = 0.0, tokens: int = 20) -> TokenEstimate:
    """Of two texts of so many tokens each, whose means are one standard error below and above the mean of both."""
    return TokenEstimate.of_texts([np.full(tokens, mean - stderr), np.full(tokens, mean + stderr)])
