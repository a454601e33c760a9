"""Torch's noise in few and many tokens, and in choices of routers that are nearly tied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import Precision, open_torch_runner
from support.variations import VARIATIONS

from seap_export.model.families import Experts
from seap_export.model.layers.sublayers.experts import chosen_experts
from validation.array_store import ArrayStore
from validation.parity import references, ties
from validation.parity.profiles import Noise
from validation.parity.references import Reference, TokenSequence, _divergence, _variation, run_references
from validation.prompts import Case

LOGITS = torch.tensor([[2.0, 1.0, 0.9999, -1.0], [2.0, 1.5, 0.0, -1.0], [0.0, 3.0, 1.0001, 1.0]])


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, [[0, 2], [0, 1], [1, 3]]),  # the second is clear
        ({"has_expert_scale": True}, [[0, 2], [0, 1], [1, 3]]),
        # no two sums are alike
        ({"scores": "sigmoid", "scaling": 2.0, "has_selection_bias": True}, [[0, 2], [2, 0], [1, 2]]),
    ],
)
def test_a_choice_that_is_nearly_tied_takes_the_next_expert(options: dict[str, Any], chosen: list[list[int]]) -> None:
    experts = Experts(num_experts=4, moe_intermediate_size=2, experts_per_token=2, **options)
    scale = torch.tensor([2.0, 3.0, 5.0, 7.0]) if experts.has_expert_scale else torch.ones(4)
    # a vector may be stored as a row
    mixture, bias = SimpleNamespace(bias=torch.tensor([[0.0, 0.0, 0.5, 0.0]]), scale=scale), experts.has_selection_bias
    weights, indices = chosen_experts(LOGITS, experts, mixture.bias[0] if bias else None)
    counted, given = ties.Ties(), LOGITS.softmax(-1) if experts.has_expert_scale else LOGITS
    paths = {"selection_bias": "bias", "expert_scale": "scale"}
    hook = ties._Hook(experts, mixture, paths, 1e-3, counted, gives_probabilities=given is not LOGITS)
    first, other_weights, others = hook(None, None, (given, weights * scale[indices], indices))
    assert first is given
    assert others.sort().values.tolist() == [sorted(pair) for pair in chosen]
    assert (counted.tied, counted.every) == (0 if bias else 2, 3)
    scores = (LOGITS.sigmoid() if bias else LOGITS.softmax(-1)).gather(1, others)
    expected = scores / scores.sum(1, keepdim=True) * experts.scaling * scale[others]
    torch.testing.assert_close(other_weights, expected)


@pytest.mark.parametrize(("rate", "is_counted"), [(0.0, False), (0.02, True), (10.0, False)])
def test_few_ties_count_as_noise_and_many_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, is_counted: bool
) -> None:
    folder = write_micro_model(tmp_path / "m", **VARIATIONS["mixtral"])
    monkeypatch.setattr(ties, "NEARLY_TIED", dict.fromkeys(ties.NEARLY_TIED, rate))
    monkeypatch.setattr(references, "NEARLY_TIED", ties.NEARLY_TIED)
    rows = tuple(tuple(np.random.default_rng(seed).integers(3, 96, 60).tolist()) for seed in range(2))
    case = Case("tied", rows, ((5, 6), (7, 8)))
    with open_torch_runner(folder, ONE_THREAD) as runner, ArrayStore() as store:
        known = run_references(runner, [case], store, runner.spec, lambda line: None)
        noise: dict[TokenSequence, Noise] = references._tied_divergence(
            runner, known, store, runner.spec, Precision("fp16"), lambda line: None
        )
    assert bool(noise) == is_counted
    if is_counted:
        assert max(one.mean_kl for one in noise.values()) > 1e-5


def test_the_divergence_of_few_tokens_varies_as_that_of_all_does() -> None:
    def moved(by: list[float]) -> Any:
        return np.array([[0.0, value] for value in by], dtype=np.float32)

    few, many = [0.1, 0.1], [0.1] * 18 + [1.0, 1.0]
    sequences = [TokenSequence((1,) * (len(by) - 1), (2,), len(by) - 1, len(by)) for by in (few, many)]
    runner = SimpleNamespace(run=lambda runs: [moved(few), moved(many)])
    spec = cast(Any, SimpleNamespace(ropes=(), sublayers=()))
    with ArrayStore() as store:
        known = {
            one: Reference(store.put(moved([0.0] * len(by))), ())
            for one, by in zip(sequences, (few, many), strict=True)
        }
        noise, _ = _divergence(cast(Any, runner), known, store, spec, "rounding", lambda line: None)
    logs = np.logaddexp(0.0, [*few, *many]) - np.log(2.0) - np.array([*few, *many]) / 2  # KL of (1/2, 1/2)
    assert noise[sequences[0]].kl_variation == pytest.approx(logs.std() / logs.mean(), rel=1e-3)
    assert noise[sequences[0]].kl_variation > 2
    assert noise[sequences[1]].kl_variation >= noise[sequences[0]].kl_variation


def test_the_variation_of_tokens_is_1_at_least() -> None:
    assert _variation(np.zeros(0)) == _variation(np.zeros(4)) == _variation(np.ones(4)) == 1.0
    assert _variation(np.array([0.0, 1.0, 0.0, 0.0])) == pytest.approx(np.std([0, 1, 0, 0]) / 0.25)
