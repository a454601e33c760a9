"""How likely a model finds the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def log_likelihoods(logits: NDArray[np.floating], tokens: Sequence[int]) -> NDArray[np.float64]:
    """log P(token), nats, [T], of each of T tokens with the logits [T, V] of its position, in float64."""
    exact = np.asarray(logits, np.float64)
    largest = exact.max(axis=1)
    log_sum = largest + np.log(np.exp(exact - largest[:, None]).sum(axis=1))
    likelihoods: NDArray[np.float64] = exact[np.arange(len(tokens)), tokens] - log_sum
    return likelihoods
