"""Torch's noise in sequences of few and of many tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from validation.array_store import ArrayStore
from validation.parity.references import Reference, TokenSequence, _divergence, _variation


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
