"""How likely a model finds the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def log_likelihoods(logits: NDArray[np.floating], tokens: Sequence[int]) -> NDArray[np.float64]:
    """log P(token), nats, [T], of each of T tokens with the logits [T, V] of its position, in float64."""
    exact = np.asarray(logits, np.float64)
    likelihoods: NDArray[np.float64] = exact[np.arange(len(tokens)), tokens] - log_sums(exact)
    return likelihoods


def log_sums(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of the sum of exp(logit), [T], over the logits [T, V] of each token."""
    largest = logits.max(axis=1)
    sums: NDArray[np.float64] = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return sums
