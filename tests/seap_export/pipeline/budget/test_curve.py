"""The KL of candidates with bits for each matrix: guessed, and corrected by what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.estimates import kl_estimate
from support.product import Candidate, CandidateFigures, Guess, OnnxFormat, Point

from seap_export.pipeline.budget.curve import KlCurve

#: A bit less costs four times as much, and 0.2 of the ratio four times as much as 0.1.
GUESS = Guess(((2.5, 0.64), (4.5, 0.04)), ((0.1, 0.02), (0.2, 0.08)))
INT4, MIXED = Candidate(0.0, OnnxFormat("int4")), Candidate(0.0, OnnxFormat("mixed-3.5"))


def point(candidate: Candidate, kl: float, lost: float = 0.0) -> Point:
    return Point(candidate, CandidateFigures(50, kl_estimate(kl), 0.9, 7.0, lost_kl=lost), "key", 50, 2.0)


def test_what_rounding_and_pruning_cost_adds_up() -> None:
    curve = KlCurve([], GUESS)
    assert curve.at(MIXED) == pytest.approx(0.16)
    assert curve.at(replace(MIXED, ratio=0.2)) == pytest.approx(0.24)
    assert curve.least(replace(MIXED, ratio=0.2)) == pytest.approx(0.16 + 0.08 / 1.35)


def test_it_is_corrected_by_what_was_measured_around() -> None:
    pruned = replace(MIXED, ratio=0.2)
    curve = KlCurve([point(INT4, 0.06), point(pruned, 0.24)], GUESS)  # half as much again, and as guessed
    assert curve.at(MIXED) == pytest.approx(1.5 * 0.16)
    assert curve.at(pruned) == pytest.approx(0.24)
    assert curve.at(replace(MIXED, ratio=0.1)) == pytest.approx(1.5**0.5 * 0.18)
    assert curve.at(replace(MIXED, ratio=0.4)) == pytest.approx(0.48)
    other = KlCurve([point(replace(INT4, vocabulary="auto"), 0.06), point(replace(INT4, ratio=0.2), 9.0)], GUESS)
    assert other.at(MIXED) == pytest.approx(0.16)  # they tell nothing of it


def test_what_dropped_tokens_lose_does_not_grow_with_the_rest() -> None:
    curve = KlCurve([point(INT4, 0.5 + 0.06, lost=0.5)], GUESS)
    assert curve.at(replace(MIXED, ratio=0.2)) == pytest.approx(0.5 + 1.5 * 0.24)
    of_int8 = KlCurve([point(Candidate(0.0, OnnxFormat("int8")), 0.501, lost=0.5)], GUESS)
    assert of_int8.at(MIXED) == pytest.approx(0.5 + 0.16)


def test_the_interval_is_about_what_is_not_measured() -> None:
    """If pruning costs less than guessed, what was measured says that rounding costs more."""
    measured = replace(MIXED, ratio=0.1)
    curve = KlCurve([point(measured, 0.18)], GUESS)
    assert curve.least(measured) == pytest.approx(curve.at(measured))
    more = replace(MIXED, ratio=0.2)
    assert curve.least(more) == pytest.approx(0.18 * (0.16 + 0.08 / 1.35) / (0.16 + 0.02 / 1.35))
    less = MIXED
    assert curve.least(less) == pytest.approx(0.18 * 0.16 / (0.16 + 0.02 * 1.35))
