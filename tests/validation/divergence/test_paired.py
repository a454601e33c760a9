"""Texts as the tokens of two models: the places that both share, and figures per byte."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from validation.divergence.paired import Bytes, PairedText, cut_figures, pair_cuts, per_byte

#: Bytes of the tokens 0 to 5 of both models.
SIZES = np.asarray([1, 2, 3, 4, 5, 6])


def test_places_are_where_both_have_seen_the_same_text() -> None:
    """abc|d|efgh|ij and a|b|c|d|efg|h|ij: the second token of the dense model, and the first, are cut smaller."""
    pair = pair_cuts((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1), SIZES, SIZES, 100)
    assert pair is not None
    assert pair.positions.tolist() == [[0, 2], [1, 3], [2, 5], [3, 6]]
    assert pair.split == (3 + 4) / 10
    assert (pair.dense, pair.variant) == ((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1))
    short = pair_cuts((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1), SIZES, SIZES, 5)  # up to the last place within the limit
    assert short is not None
    assert (short.dense, short.variant, short.split) == ((2, 0), (0, 0, 0, 0), 3 / 4)
    assert short.positions.tolist() == [[0, 2], [1, 3]]


def test_cuts_that_cross_are_not_shared() -> None:
    """ab|cd and a|bc|d share only the end."""
    pair = pair_cuts((1, 1), (0, 1, 0), SIZES, SIZES, 9)
    assert pair is not None
    assert (pair.positions.tolist(), pair.split) == ([[1, 2]], 1.0)
    assert pair_cuts((1, 1), (0, 1, 0), SIZES, SIZES, 2) is None


def _text(dense: int, size: int, split: float, lengths: Bytes | None) -> PairedText:
    return PairedText((0,) * dense, (0,) * size, np.zeros((1, 2), np.int64), split, lengths)


def test_figures_per_byte_are_sums_over_sums() -> None:
    texts = [_text(4, 6, 0.5, Bytes(20, 18, 19)), _text(2, 2, 0.0, Bytes(10, 7, 7))]
    figures = per_byte(texts, 3.0, 5.2, 5.0)
    assert figures is not None
    assert (figures.kl, figures.bytes) == (3.0 / 30, 30)
    assert (figures.bits, figures.dense_bits) == pytest.approx((5.2 / 26 / math.log(2), 5.0 / 25 / math.log(2)))
    assert astuple(cut_figures(texts, 9, 0.25, 0.5, 0.75)) == pytest.approx((9, 0.25, 0.5, 0.25, 10 / 30, 8 / 6 - 1))
    assert per_byte([*texts, _text(2, 2, 0.0, None)], 3.0, 5.2, 5.0) is None  # a length is not known
