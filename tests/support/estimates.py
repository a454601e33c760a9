"""A divergence whose mean and standard error are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from validation.estimate import TokenEstimate


def kl_estimate(mean: float, stderr: float = 0.0, tokens: int = 20) -> TokenEstimate:
    """Of two texts of so many tokens each, whose means are one standard error below and above the mean of both."""
    return TokenEstimate.of_texts([np.full(tokens, mean - stderr), np.full(tokens, mean + stderr)])


def without_texts(divergence: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a report's divergence that are single numbers."""
    return {key: value for key, value in divergence.items() if key != "kl_nats_by_text"}
