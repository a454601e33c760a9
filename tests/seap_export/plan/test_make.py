"""A plan is made from the scores of the very model it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import write_micro_model
from safetensors.torch import load_file

from seap_export.activations.statistics import Calibration
from seap_export.errors import InputError
from seap_export.plan.make import make_plan, score_layers
from seap_export.plan.sparsity import Sparsity
from seap_export.scores import SCORES, channel_scores
from seap_export.sources.source import Source, open_source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(str(write_micro_model(tmp_path / "model", model_type="llama")))


@pytest.mark.parametrize("score", SCORES)
def test_every_layer_is_scored_by_its_own_weights_and_statistics(
    source: Source, random_calibration: Callable[[Source], Calibration], score: Any
) -> None:
    calibration = random_calibration(source)
    done: list[int] = []
    scores = score_layers(source, calibration, score, done.append)
    weights = load_file(next(file for file in source.files if file.suffix == ".safetensors"))
    assert done == [0, 1, 2]
    for index, own in enumerate(scores):
        moments, prefix = calibration.layer(index), f"model.layers.{index}."
        heads = channel_scores(score, weights[prefix + "self_attn.o_proj.weight"], moments.o_proj)
        assert torch.equal(own.heads, heads.view(6, 16).mean(1))
        neurons = channel_scores(score, weights[prefix + "mlp.down_proj.weight"], moments.down_proj)
        assert torch.equal(own.neurons, neurons)


def test_statistics_of_another_model_are_refused(
    source: Source, tmp_path: Path, random_calibration: Callable[[Source], Calibration]
) -> None:
    other = open_source(str(write_micro_model(tmp_path / "other", seed=1, model_type="llama")))
    with pytest.raises(InputError, match="'boolq' is of another model"):
        score_layers(source, random_calibration(other), "wifv")


def test_a_plan_says_what_it_was_made_from_and_how(
    source: Source, random_calibration: Callable[[Source], Calibration]
) -> None:
    calibration = random_calibration(source)
    plan = make_plan(
        source,
        calibration,
        score_layers(source, calibration, "wifn"),
        score="wifn",
        ratio=0.3,
        sparsity=Sparsity("uniform", protect_first=1),
        align=4,
        compensation="none",
    )
    assert (plan.task, plan.source_name, plan.source_sha256) == ("boolq", "model", source.digest)
    assert (plan.score, plan.align, plan.compensation, plan.requested_ratio) == ("wifn", 4, "none", 0.3)
    assert plan.sparsity == Sparsity("uniform", protect_first=1, protect_last=0)
    dense, shrunk = source.spec, plan.shrunk_spec(source.spec)
    kept, whole = (sum(spec.prunable_weights(layer) for layer in range(3)) for spec in (shrunk, dense))
    assert plan.achieved_ratio == pytest.approx(1.0 - kept / whole)
    assert plan.achieved_ratio == pytest.approx(0.3, abs=0.01)
