"""Draws follow the distribution of transformers, and depend on seed and prompt alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from seap_export.errors import UsageError
from seap_export.runtime.decoding.sampling import GREEDY, Sampler, Sampling, distribution, penalised


@pytest.mark.parametrize("temperature", [0.3, 1.6])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, 0.6), (7, 1.0), (7, 0.6), (1, 1.0), (49, 0.999), (50, 0.35), (1000, 1e-9)]
)
@pytest.mark.parametrize(("min_p", "penalty"), [(0.0, 1.0), (0.02, 1.3), (1.0, 0.8), (0.0, 1.3), (0.02, 1.0)])
def test_the_distribution_is_that_of_transformers(
    temperature: float, top_k: int | None, top_p: float, min_p: float, penalty: float
) -> None:
    """Its processors in the order of `generate`; the penalty counts a token once, however often it has come."""
    from transformers.generation import logits_process

    chance = np.random.default_rng(5)
    seen = [3, 8, 3, 41, 8, 3]
    processors = [
        logits_process.RepetitionPenaltyLogitsProcessor(penalty),
        logits_process.TemperatureLogitsWarper(temperature),
        *([] if top_k is None else [logits_process.TopKLogitsWarper(top_k)]),
        *([] if top_p == 1 else [logits_process.TopPLogitsWarper(top_p)]),
        logits_process.MinPLogitsWarper(min_p),
    ]
    for _ in range(4):
        logits = chance.normal(0, 3, 50).astype(np.float32)
        scores = torch.from_numpy(logits)[None].clone()
        for processor in processors:
            scores = processor(torch.tensor([seen]), scores)
        expected = scores.double().softmax(-1)[0].numpy()
        sampling = Sampling(temperature, top_k, top_p, 0, min_p, penalty)
        tokens, probabilities = distribution(penalised(logits, sorted(set(seen)), penalty), sampling)
        assert sorted(tokens.tolist()) == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(probabilities, expected[tokens], rtol=1e-5)


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [(2, 1.0, [1, 2]), (5, 1.0, [0, 1, 2, 3, 5]), (None, 0.3, [1, 2]), (4, 0.5, [1, 2]), (3, 0.99, [1, 2, 3])],
)
def test_of_equal_tokens_the_first_are_kept(top_k: int | None, top_p: float, expected: list[int]) -> None:
    logits = np.array([1.0, 2.0, 2.0, 2.0, 0.0, 2.0], np.float32)
    tokens, probabilities = distribution(logits, Sampling(1.0, top_k, top_p))
    assert sorted(tokens.tolist()) == expected
    weights = np.exp(logits[tokens])
    np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-6)


def test_the_penalty_is_for_the_prompt_and_all_that_was_chosen() -> None:
    logits = np.array([-1.0, 3.0, 2.9, 2.0, -5.0], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), [3, 3])
    assert [sampler.choose(logits) for _ in range(5)] == [1, 2, 1, 1, 1]
    assert sampler.choose(np.array([-1.0, -0.6, -0.7, -9.0, -1.1], np.float32)) == 0
    assert logits[1] == 3.0  # its own copy is changed


@pytest.mark.parametrize("sampling", [Sampling(1.0, seed=1), Sampling(0.7, 4, 0.9), Sampling(2.0, None, 0.6)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits = np.array([0.0, 2.0, 1.5, -1.0, 0.5, 1.0], np.float32)
    sampler, number = Sampler(sampling, [5, 6]), 20_000
    counts = np.bincount([sampler.choose(logits) for _ in range(number)], minlength=6)
    expected = np.zeros(6)
    tokens, probabilities = distribution(logits, sampling)
    expected[tokens] = probabilities
    assert not counts[expected == 0].any()
    assert (np.abs(counts / number - expected) < 5 * np.sqrt(expected * (1 - expected) / number) + 1e-12).all()


def test_draws_depend_on_seed_and_prompt_alone() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int, prompt: list[int]) -> list[int]:
        sampler = Sampler(Sampling(1.0, seed=seed), prompt)
        return [sampler.choose(logits) for _ in range(8)]

    assert draws(1, [2, 3]) == draws(1, [2, 3])
    assert len({tuple(draws(seed, prompt)) for seed in (1, 2) for prompt in ([2, 3], [3, 2], [2])}) == 6


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    assert Sampler(GREEDY, [1]).choose(np.array([0.0, 3.0, 3.0], np.float32)) == 1
    tiny = Sampler(Sampling(1e-320), [1])
    assert tiny.choose(np.array([0.0, 3.0, 2.0], np.float32)) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 .*; "),
        ({"temperature": math.nan}, "temperature nan .*; "),
        ({"temperature": 10**308}, "temperature 1e.308 .*; "),
        ({"temperature": 1.0, "top_k": 0}, "top-k 0 .*; .* 1$"),
        ({"temperature": 1.0, "top_p": 0.0}, "top-p 0 .*; .* 1$"),
        ({"temperature": 1.0, "top_p": 1.1}, "top-p 1.1 .*; .* 1$"),
        ({"temperature": 1.0, "min_p": -0.1}, "min-p -0.1 .*; .* 0 to 1$"),
        ({"temperature": 1.0, "min_p": 1.1}, "min-p 1.1 .*; .* 0 to 1$"),
        ({"repetition_penalty": 0.009}, "repetition penalty 0.009 .*; "),
        ({"seed": -1}, "seed -1 .*; "),
        *(({name: value}, "have no effect at temperature 0; ") for name, value in (("top_k", 5), ("min_p", 0.5))),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**values)
