"""Calibration gives the moments and covariances that transformers' own model has, text by text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from support.calibration import FullStatistics, full_statistics
from support.chosen import VARIED_JOINT
from support.corpora import random_token_ids
from support.models import micro_source, projection_inputs, transformers_model
from support.product import Projection


def assert_statistics_of(statistics: FullStatistics, values: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Against two passes over all tokens in float64."""
    moments, mean = statistics.moments, values.mean(0)
    centred = values - mean
    covariance = centred.T @ centred / len(values)
    spread = covariance.diagonal().sqrt()
    assert moments.count == len(values)
    assert moments.mean.dtype == moments.variance.dtype == statistics.covariance.dtype == torch.float64
    assert ((moments.mean - mean).abs() <= tolerance * values.square().mean(0).sqrt()).all()
    torch.testing.assert_close(moments.variance, covariance.diagonal(), rtol=2 * tolerance, atol=0.0)
    assert ((statistics.covariance - covariance).abs() <= tolerance * torch.outer(spread, spread)).all()
    assert torch.equal(statistics.covariance, statistics.covariance.T)


def assert_all_of(
    layers: Sequence[Mapping[Projection, FullStatistics]],
    expected: Sequence[Mapping[str, torch.Tensor]],
    tolerance: float = 1e-5,
) -> None:
    assert len(layers) == len(expected) == 3
    for layer, values in zip(layers, expected, strict=True):
        assert layer.keys() == values.keys()
        for output in layer:
            assert_statistics_of(layer[output], values[output], tolerance)


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_statistics_are_those_of_transformers_model_text_by_text(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    layers = full_statistics(source, random_token_ids(), max_batch_tokens=64)
    # Neurons without a gate are often nearly 0 at all tokens, so that rounding is more of their variance.
    tolerance = 1e-5 if source.spec.family.block.is_gated else 1e-4
    assert_all_of(layers, projection_inputs(transformers_model(tmp_path / "model"), random_token_ids()), tolerance)


@pytest.mark.parametrize("variation", ["llama-gqa", "qwen2-window"])
def test_batches_and_order_change_nothing(tmp_path: Path, variation: str) -> None:
    """Texts behind those of the sensitivity, which is taken from the first 512 tokens, count like the others."""
    source = micro_source(tmp_path / "model", variation)
    texts = random_token_ids(60)
    assert sum(map(len, texts)) > 700
    shuffled = random.Random(7).sample(texts, len(texts))
    expected = projection_inputs(transformers_model(tmp_path / "model"), texts)
    for max_batch_tokens, sequences in ((1, texts), (40, texts), (4096, shuffled)):
        assert_all_of(full_statistics(source, sequences, max_batch_tokens=max_batch_tokens), expected)
