"""Estimates, and figures of logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from seap_export.errors import ParityFailure
from validation import metrics
from validation.estimate import Estimate, TokenEstimate, kl_json, wilson
from validation.likelihood import log_likelihoods
from validation.metrics import Defect, LogitComparison, LogitFigures, LogitIndex


def _texts(number: int = 60) -> list[np.ndarray]:
    """Texts of one to three tokens, whose tokens are alike and whose means differ."""
    rng = np.random.default_rng(0)
    return [rng.gamma(2.0, size=()) + rng.random(1 + row % 3) / 9 for row in range(number)]


def test_the_standard_error_is_over_texts_not_tokens() -> None:
    texts = _texts()
    sums, tokens = np.array([text.sum() for text in texts]), np.array([len(text) for text in texts])
    rest = sums - sums.sum() / tokens.sum() * tokens
    estimate = TokenEstimate.of_texts(texts)
    assert estimate.mean == pytest.approx(np.concatenate(texts).mean(), rel=1e-12)
    assert estimate.stderr == pytest.approx(math.sqrt(60 / 59 * (rest**2).sum()) / tokens.sum(), rel=1e-12)
    drawn = np.random.default_rng(1).integers(60, size=(20_000, 60))
    assert estimate.stderr == pytest.approx((sums[drawn].sum(1) / tokens[drawn].sum(1)).std(), rel=0.05)
    assert kl_json(TokenEstimate.of_texts(texts[::-1])) == kl_json(estimate)  # their order changes no bit
    by_token = TokenEstimate.of_texts(np.concatenate(texts)[:, None])
    assert by_token.mean == pytest.approx(estimate.mean)
    assert (by_token.stderr or 9.9) < 0.8 * estimate.stderr


def test_percentiles_are_those_that_llama_cpp_prints() -> None:
    """llama.cpp: p = fraction * (n - 1), then linear between the values at floor(p) and the next; over all texts."""
    values = np.arange(2001.0) ** 2
    estimate = TokenEstimate.of_texts(np.split(np.random.default_rng(0).permutation(values), [3, 700]))
    assert (estimate.median, estimate.p99, estimate.max) == (1000.0**2, 1980.0**2, 2000.0**2)
    assert estimate.p999 == 1998.0**2
    between = TokenEstimate.of_texts([np.array([0.0, 1.0]), np.array([3.0, 7.0])])
    assert (between.median, between.p99, between.p999) == pytest.approx((2.0, 3 + 0.97 * 4, 3 + 0.997 * 4))


def test_two_variants_are_compared_on_the_same_texts() -> None:
    """Most of what each varies by is that of the texts, which cancels."""
    texts = _texts()
    one = TokenEstimate.of_texts(texts)
    other = TokenEstimate.of_texts([text + 0.01 * (1 + row % 2) for row, text in enumerate(texts)])
    more = other.minus(one)
    assert more is not None
    assert more.mean == pytest.approx(other.mean - one.mean)
    assert 0 < (more.stderr or 0.0) < (one.stderr or 0.0) / 50
    assert one.minus(TokenEstimate.of_texts(texts[1:])) is None
    assert one.minus(one) == Estimate(0.0, 0.0, 60)


def test_answers_are_questions_that_count_alike() -> None:
    share, retained = (Estimate.of_sums([1, 0, 1, 1, 0], of) for of in ([1] * 5, [1, 1, 1, 0, 0]))
    assert share.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    assert (retained.mean, retained.stderr) == (1.0, pytest.approx(math.sqrt(5 / 4 * 2) / 3))


@pytest.mark.parametrize(
    ("estimate", "limit", "words"),
    [
        (Estimate(0.125, 2**-6, 32), 0.125 + 2 * 2**-6, ""),
        (Estimate(0.125, 2**-6, 32), 0.125 + 2**-6, "the standard error is 0.016; about 96 more texts would tell"),
        (Estimate(0.125, 2**-6, 32), 0.125 - 2**-6, "the standard error is 0.016; about 96 more texts would tell"),
        (Estimate(0.125, 2**-6, 32), 0.126, "the standard error is 0.016; about 32,000 more texts would tell"),
        (Estimate(0.125, 2**-6, 32), 0.125, "the standard error is 0.016; over 100,000 more texts would tell"),
        (Estimate(0.125, 0.0, 2), 0.125, ""),
        (Estimate(0.10, None, 1), 9.0, "a standard error needs at least two texts; give more"),
    ],
)
def test_within_two_errors_of_a_limit_it_is_too_close_to_tell(estimate: Estimate, limit: float, words: str) -> None:
    assert estimate.close_words(limit, "texts") == (words and f"too close to tell: {words}")


def test_an_estimate_is_read_as_it_was_written() -> None:
    estimate = TokenEstimate.of_texts(_texts(3))
    assert TokenEstimate.read(estimate.to_json()) == estimate
    one = TokenEstimate.of_texts(_texts(1))
    assert one.stderr is None
    assert TokenEstimate.read(one.to_json()) == one
    assert set(kl_json(None)) == set(kl_json(estimate))
    with pytest.raises(ValueError, match="standard error"):
        Estimate(0.1, None, 2)


@pytest.mark.parametrize(
    ("share", "number", "interval"),
    [(1.0, 8, (0.6756, 1.0)), (0.0, 8, (0.0, 0.3244)), (0.5, 100, (0.4038, 0.5962)), (0.9, 10, (0.5958, 0.9821))],
)
def test_an_interval_of_few_answers_is_wide(share: float, number: int, interval: tuple[float, float]) -> None:
    """Against the values of statsmodels' proportion_confint with method "wilson"."""
    assert wilson(share, number) == pytest.approx(interval, abs=1e-4)


def test_few_equal_answers_are_no_proof_and_of_many_the_error_is_that_of_the_pairs() -> None:
    right = [True, True, False, True, True, False, True, True]
    difference, kept = (Estimate.of_answers(right, right, share=share) for share in (False, True))
    assert (difference.mean, kept.mean) == (0.0, 1.0)
    assert difference.stderr == pytest.approx(math.sqrt(8 / 7) / 8)
    assert kept.stderr == pytest.approx(math.sqrt(8 / 7) / 6)
    assert kept.is_close_to(0.8)
    assert Estimate.of_answers([True], [True], share=True).stderr is None
    rng = np.random.default_rng(0)
    dense, variant = (list(map(bool, rng.random(4000) < share)) for share in (0.6, 0.5))
    plain = Estimate.of_sums([int(a) - int(b) for a, b in zip(variant, dense, strict=True)], [1] * 4000)
    found = Estimate.of_answers(variant, dense, share=False)
    assert (found.mean, found.stderr) == (plain.mean, pytest.approx(plain.stderr, rel=1e-3))


def _logits(tokens: int = 5, vocabulary: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokens, vocabulary)).astype(np.float32)


def _compared(reference: np.ndarray, candidate: np.ndarray, **where: Any) -> LogitComparison:
    comparison = LogitComparison()
    comparison.update(reference, candidate, **where)
    return comparison


def _compare(reference: np.ndarray, candidate: np.ndarray, **where: Any) -> LogitFigures:
    return _compared(reference, candidate, **where).figures()


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
    alone = _compare(np.log(p)[None], np.log(q)[None] + 3).kl
    both = _compare(np.log(np.stack([p, p])), np.log(np.stack([q, p]))).kl
    assert alone is not None
    assert both is not None
    assert (alone.max, both.max, both.mean) == pytest.approx((expected, expected, expected / 2), abs=1e-15)
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
