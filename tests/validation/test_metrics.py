from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from seap_export.errors import ParityFailure
from validation import metrics
from validation.estimate import Estimate
from validation.likelihood import log_likelihoods
from validation.metrics import Defect, LogitComparison, LogitFigures, LogitIndex


def _logits(tokens: int = 5, vocabulary: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokens, vocabulary)).astype(np.float32)


def _compared(reference: np.ndarray, candidate: np.ndarray, **where: Any) -> LogitComparison:
    comparison = LogitComparison()
    comparison.update(reference, candidate, **where)
    return comparison


def _compare(reference: np.ndarray, candidate: np.ndarray, **where: Any) -> LogitFigures:
    return _compared(reference, candidate, **where).figures()


def _max_kl(figures: LogitFigures) -> float:
    assert figures.kl is not None
    return figures.kl.max


def test_the_worst_logit_is_found_by_row_position_and_token() -> None:
    reference, candidate = _logits(), _logits()
    candidate[3, 2] += 0.5
    candidate[1, 4] -= 0.25
    comparison = _compared(_logits(2), _logits(2), row=0)
    comparison.update(reference, candidate, row=1, first_position=10)
    figures = comparison.figures()
    assert figures.max_abs == pytest.approx(0.5)
    assert figures.worst == LogitIndex(row=1, position=13, token_id=2)
    assert figures.mean_abs == pytest.approx(0.75 / 49)
    assert figures.tokens == 7


def test_kl_is_weighted_with_the_reference() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.8, 0.1, 0.1])
    expected = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.25 / 0.1)
    assert _max_kl(_compare(np.log(p)[None], np.log(q)[None] + 3)) == pytest.approx(expected, abs=1e-15)
    figures = _compare(np.log(np.stack([p, p])), np.log(np.stack([q, p])))
    assert _max_kl(figures) == pytest.approx(expected)
    assert figures.mean_kl == pytest.approx(expected / 2)
    large = np.full((1, 3), 1000.0)  # differences too small for sums in float32 are kept
    assert _compare(large, large + 1e-9).max_abs == pytest.approx(1e-9, rel=1e-3)


def test_tokens_that_the_candidate_lacks_cost_what_the_reference_gives_them() -> None:
    p, q = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.6, 0.1], [0.0, 0.9, 0.1, 0.0]]), np.array([0.25, 0.75])
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(p), -1000.0)
    comparison = LogitComparison(np.array([1, 2]))
    comparison.update(logits, np.log(np.stack([q] * 3)) + 3)
    figures = comparison.figures()
    over_kept = [
        sum(a * math.log(a / b) for a, b in zip(of, q, strict=True)) for of in ([0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    ]
    lost = [-math.log(0.4), -math.log(0.8), 0.0]
    assert figures.kl is not None
    assert figures.kl.mean == pytest.approx((sum(over_kept) + sum(lost)) / 3)
    assert figures.kl.max == pytest.approx(max(over_kept[0] + lost[0], over_kept[2]))
    assert (figures.lost_kl, figures.lost_mass) == pytest.approx((sum(lost) / 3, (0.6 + 0.2) / 3))
    assert figures.top1_agreement == 1 / 3  # of the first token, the likeliest is gone
    none_left = LogitComparison(np.array([0]))
    none_left.update(np.array([[-1000.0, 1000.0]]), np.zeros((1, 1)))
    assert (none_left.figures().mean_kl, none_left.figures().lost_mass) == (2000.0, 1.0)


def test_blocks_give_the_same_figures_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = _logits(9), _logits(9) + np.linspace(0, 1, 9, dtype=np.float32)[:, None] ** 2
    candidate[7, 1] += 1
    whole = _compare(reference, candidate)
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 14)
    in_blocks = _compare(reference, candidate)
    assert in_blocks.worst == whole.worst == LogitIndex(0, 7, 1)
    assert in_blocks.mean_kl == pytest.approx(whole.mean_kl)
    assert in_blocks.mean_abs == pytest.approx(whole.mean_abs)


@pytest.mark.parametrize(
    ("value", "kind", "side"),
    [(np.nan, "nan", "reference"), (np.inf, "inf", "candidate"), (-np.inf, "inf", "reference")],
)
def test_a_value_that_is_not_finite_is_a_defect_with_its_place(value: float, kind: str, side: str) -> None:
    logits = {"reference": _logits(), "candidate": _logits()}
    logits[side][2, 3] = value
    logits[side][4, 0] = value
    figures = _compare(logits["reference"], logits["candidate"], row=2, first_position=1)
    assert figures.defects == (Defect(kind, side, LogitIndex(2, 3, 3), tokens=2),)
    assert (figures.tokens, figures.max_abs) == (5, 0)


def test_nothing_compared_is_an_error() -> None:
    comparison = LogitComparison()
    comparison.update(_logits(0), _logits(0))
    for empty in (LogitComparison(), comparison):
        with pytest.raises(ParityFailure, match="nothing was compared"):
            empty.figures()


@pytest.mark.parametrize(
    ("reference", "candidate", "agreement"),
    [
        ([1.0, 1.0, 0.0], [0.9, 1.0, 0.0], 1),  # the reference ties, the candidate takes the other
        ([0.9, 1.0, 0.0], [1.0, 1.0, 0.0], 1),  # the candidate ties
        ([1.0, 0.9, 0.0], [0.9, 1.0, 0.0], 0),
        ([1.0, 1.0, 0.0], [0.9, 0.9, 1.0], 0),
    ],
)
def test_top1_counts_a_tie_as_agreement(reference: list[float], candidate: list[float], agreement: float) -> None:
    assert _compare(np.array([reference]), np.array([candidate])).top1_agreement == agreement


def test_a_choice_is_clear_if_its_lead_reaches_the_margin() -> None:
    reference = np.array([[1.0, 0.75, 0.0], [1.0, 0.25, 0.0], [2.0, 0.0, 0.0]])
    comparison = _compared(reference, np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
    shares = [comparison.figures(margin).clear_top1_agreement for margin in (0.1, 0.75, 1.0, 3.0)]
    assert shares == [1 / 3, 1 / 2, 1.0, None]


def test_the_perplexity_ratio_is_that_of_the_tokens_that_follow() -> None:
    reference = np.log([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.2, 0.2, 0.6]])
    candidate = np.log([[0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.2, 0.2, 0.6]])
    ratio = _compare(reference, candidate, following=[0, 2]).perplexity_ratio
    assert ratio == pytest.approx(math.sqrt((0.5 / 0.25) * (0.25 / 0.5)))
    reference[0] = np.nan  # the first token then counts neither as followed nor as finite
    assert _compare(reference, candidate, following=[0, 2]).perplexity_ratio == pytest.approx(0.25 / 0.5)


def test_a_row_is_a_text_that_may_come_in_parts() -> None:
    rng = np.random.default_rng(0)
    whole, parts = LogitComparison(), LogitComparison()
    texts = [rng.normal(size=(2, 3 + row, 3)) for row in range(5)]
    for row, (p, q) in enumerate(texts):
        whole.update(p, q, row=row)
        parts.update(p[:1], q[:1], row=row)
        parts.update(p[1:], q[1:], row=row, first_position=1)
    agreement = [_compare(*logits) for logits in texts]
    figures = parts.figures()
    top1 = Estimate.of_sums(
        [figure.top1_agreement * figure.tokens for figure in agreement], [figure.tokens for figure in agreement]
    )
    assert (figures.top1_agreement, figures.top1_stderr) == pytest.approx((top1.mean, top1.stderr))
    kl, in_parts = whole.figures().kl, figures.kl
    assert kl is not None
    assert in_parts is not None
    assert [tokens for _, tokens in in_parts.texts] == [3, 4, 5, 6, 7]
    assert (in_parts.mean, in_parts.stderr) == pytest.approx((kl.mean, kl.stderr), rel=1e-12)


def test_the_likelihoods_of_large_logits_are_finite() -> None:
    assert log_likelihoods(np.array([[1000.0, 0.0], [-1000.0, -1000.0]]), [0, 1]) == pytest.approx([0.0, -math.log(2)])
