from __future__ import annotations

import math

import numpy as np
import pytest

from validation.estimate import Estimate, TokenEstimate, kl_json, wilson


def _texts(number: int = 60) -> list[np.ndarray]:
    """Texts of one to three tokens, whose tokens are alike and whose means differ."""
    rng = np.random.default_rng(0)
    return [rng.gamma(2.0, size=()) + rng.random(1 + row % 3) / 9 for row in range(number)]


def test_the_standard_error_is_over_texts_not_tokens() -> None:
    """Against the formula by hand, and a bootstrap of texts."""
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
    assert by_token.stderr is not None
    assert by_token.stderr < 0.8 * estimate.stderr


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
    assert more.stderr is not None
    assert one.stderr is not None
    assert more.mean == pytest.approx(other.mean - one.mean)
    assert 0 < more.stderr < one.stderr / 50
    assert one.minus(TokenEstimate.of_texts(texts[1:])) is None
    assert one.minus(one) == Estimate(0.0, 0.0, 60)


def test_answers_are_questions_that_count_alike() -> None:
    dense, variant = [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]
    share = Estimate.of_sums(variant, [1] * 5)
    assert share.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    retained = Estimate.of_sums(variant, dense)
    assert retained.mean == 1.0
    assert retained.stderr == pytest.approx(math.sqrt(5 / 4 * 2) / 3)


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
