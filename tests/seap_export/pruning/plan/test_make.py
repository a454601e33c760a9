"""A plan is made from the scores or the losses of the very model it is for, after an interruption too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.calibration import Killed, single_mixture
from support.exports import tree
from support.models import micro_source, write_micro_model
from support.plans import assert_same_options, both, kept_sizes
from support.product import OUTPUTS, Calibration, Compute, Projection, Source, TaskMixture, open_recipe, open_source

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import names
from seap_export.pruning.plan import make
from seap_export.pruning.plan.layer_options import options_from_elimination, options_from_scores
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import Ranking, read_ranking
from seap_export.pruning.plan.settings import PlanSettings, ScoreMix
from seap_export.pruning.plan.sparsity import Sparsity
from seap_export.pruning.plan.sublayers import KeptHeads
from seap_export.pruning.scores import (
    CHANNEL_SCORES,
    ChannelScore,
    LayerScores,
    channel_scores,
    layer_scores,
    unit_scores,
)

Calibrate = Callable[..., Calibration]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return micro_source(tmp_path / "model")


@pytest.fixture
def mixture(source: Source, random_calibration: Calibrate) -> TaskMixture:
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(("one", "two"))}
    return TaskMixture("mix", {"one": 1.0, "two": 2.0}, calibrations)


def output_weights(source: Source, index: int) -> dict[Projection, torch.Tensor]:
    weights = load_file(next(file for file in source.files if file.suffix == ".safetensors"))
    prefix = f"model.layers.{index}."
    return {
        "o_proj": weights[prefix + "self_attn.o_proj.weight"],
        "down_proj": weights[prefix + "mlp.down_proj.weight"],
    }


def ranking_of(source: Source, statistics: TaskMixture, score: Any, **changes: Any) -> Ranking:
    done: list[int] = []
    settings = PlanSettings(score, **{"ridge": 1.0, **changes})
    with TemporaryDirectory() as folder:
        ranking = rank_layers(source, statistics, settings, Path(folder), done.append, compute=Compute())
    assert done == [0, 1, 2]
    assert torch.equal(ranking.sensitivity, statistics.sensitivity())
    assert (ranking.scores is None) is (score == "elimination")
    return ranking


@pytest.mark.parametrize("score", CHANNEL_SCORES)
def test_every_layer_is_scored_by_its_own_weights_and_statistics(
    source: Source, random_calibration: Calibrate, score: ChannelScore
) -> None:
    calibration = random_calibration(source)
    ranking = ranking_of(source, single_mixture(calibration), score)
    squared = ranking_of(source, single_mixture(calibration), score, sparsity=Sparsity("global"))
    for index, (scores, options) in enumerate(zip(ranking.scores or (), ranking.options, strict=True)):
        moments, weights = calibration.layer(index), output_weights(source, index)
        heads = channel_scores(score, weights["o_proj"], moments["o_proj"])
        assert torch.equal(unit_scores(scores["o_proj"]), heads.view(6, 16).mean(1))
        assert torch.equal(scores["down_proj"], channel_scores(score, weights["down_proj"], moments["down_proj"]))
        assert_same_options(options, options_from_scores(source.spec, index, scores))
        expected = layer_scores(score, weights, moments, source.spec.layers[index], square_heads=True)
        found = (squared.scores or ())[index]
        assert torch.equal(found["o_proj"], expected["o_proj"])
        assert not torch.equal(found["o_proj"], scores["o_proj"])
        assert torch.equal(found["down_proj"], scores["down_proj"])
    other = open_source(str(write_micro_model(source.files[0].parent.with_name("other"), seed=1, model_type="llama")))
    with pytest.raises(InputError, match="'boolq' was made with another model"):
        ranking_of(source, single_mixture(random_calibration(other)), score)
    with pytest.raises(UsageError, match="has none; use another recipe"):  # no experts
        ranking_of(source, single_mixture(calibration), "reap")


@pytest.mark.parametrize("score", ["wifv", "elimination"])
@pytest.mark.parametrize("variation", ["glm4", "exaone4", "gemma2-all"])
def test_rows_count_by_the_gain_of_the_norm_behind_them(
    tmp_path: Path, random_calibration: Calibrate, variation: str, score: Any
) -> None:
    """As if the norm's gain were part of the projection, which is the same function."""
    source = micro_source(tmp_path / variation, variation)
    statistics = single_mixture(random_calibration(source))
    ranking = ranking_of(source, statistics, score)
    for index, options in enumerate(ranking.options):
        layer = source.read_layer(index)
        weights = {
            output: layer[names.tensor(norm, index)].float().unsqueeze(1) * layer[names.weight(output, index)].float()
            for output, norm in (("o_proj", "post_self_attn_layernorm"), ("down_proj", "post_mlp_layernorm"))
        }
        if score == "elimination":
            covariances = {output: statistics.covariance(index, output) for output in OUTPUTS}
            ridge = 1.0 / statistics.effective_tokens
            expected = options_from_elimination(source.spec, index, weights, covariances, ridge=ridge)
        else:
            scores = layer_scores(
                score, weights, statistics.calibrations["boolq"].layer(index), source.spec.layers[index]
            )
            expected = options_from_scores(source.spec, index, scores)
        assert_same_options(options, expected)


@pytest.mark.parametrize("ridge", [0.5, 20.0])
def test_elimination_sees_the_covariances_of_the_mixture_and_the_ridge_of_the_refit(
    source: Source, mixture: TaskMixture, ridge: float
) -> None:
    assert mixture.effective_tokens == pytest.approx(72)  # of 80, unevenly weighted
    for index, options in enumerate(ranking_of(source, mixture, "elimination", ridge=ridge).options):
        covariances = {output: mixture.covariance(index, output) for output in OUTPUTS}
        expected = options_from_elimination(
            source.spec, index, output_weights(source, index), covariances, ridge=ridge / mixture.effective_tokens
        )
        assert_same_options(options, expected)


def total(scores: tuple[LayerScores, ...]) -> float:
    return sum(float(score["o_proj"].sum() + score["down_proj"].sum()) for score in scores)


@pytest.mark.parametrize(("score", "mix"), [("wifv", "scaled"), ("wifn", "scaled"), ("wifv", "plain")])
def test_scores_of_several_tasks_are_added_by_their_weights(
    source: Source, random_calibration: Calibrate, score: ChannelScore, mix: ScoreMix
) -> None:
    """A task whose scores are all 0 is no obstacle."""
    calibrations = {
        task: random_calibration(source, task, seed, scale=scale)
        for seed, (task, scale) in enumerate({"one": 1.0, "two": 10.0, "none": 0.0}.items())
    }
    mixture = TaskMixture("mix", {"one": 1.0, "two": 0.25, "none": 1.0}, calibrations)
    scores = {
        task: ranking_of(source, single_mixture(calibration), score).scores or ()
        for task, calibration in calibrations.items()
    }
    factors = {
        task: weight / (total(scores[task]) or 1.0 if mix == "scaled" else 1.0)
        for task, weight in mixture.weights.items()
    }
    mixed = ranking_of(source, mixture, score, mix=mix)
    for index, layer in enumerate(mixed.scores or ()):
        for output, found in layer.items():
            expected = sum(factors[task] * scores[task][index][output] for task in scores)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
        assert_same_options(mixed.options[index], options_from_scores(source.spec, index, layer))
    assert mix == "plain" or total(mixed.scores or ()) == pytest.approx(1.25)


def test_the_sensitivity_and_the_balance_decide_too(source: Source, random_calibration: Calibrate) -> None:
    statistics = single_mixture(random_calibration(source))

    def planned(ranking: Ranking, kind: Any = "adaptive", balance: Any = "loss") -> Plan:
        settings = PlanSettings("wifv", Sparsity(kind), align=4, balance=balance, compensation="none")
        return plan_variant(source, statistics, ranking, settings, 0.3)

    ranking = ranking_of(source, statistics, "elimination")
    plan = planned(ranking)
    other = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1e6, 1e6]], dtype=torch.float64)
    sensitive = planned(dataclasses.replace(ranking, sensitivity=other))
    assert sensitive.layers[2] != plan.layers[2]
    assert kept_sizes(sensitive.layers[2]) == (3, 6, 80)
    parts = [both(option) for option in ranking.options]
    cheap = [(heads, dataclasses.replace(neurons, loss_of=1e-6 * neurons.loss_of)) for heads, neurons in parts]
    ranking = dataclasses.replace(ranking, options=tuple(cheap))
    by_loss, alike = (planned(ranking, "uniform", balance).layers for balance in ("loss", "alike"))
    assert all(len(layer[KeptHeads].heads) == 6 for layer in by_loss)
    assert any(len(layer[KeptHeads].heads) < 6 for layer in alike)


@pytest.mark.parametrize(("recipe", "work"), [("reconstruct", "_eliminate"), ("seap", "_scores")])
def test_an_interrupted_ranking_goes_on_and_is_the_same(
    source: Source, mixture: TaskMixture, tmp_path: Path, recipe: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file counts as none, and a damaged one is refused."""
    settings, made, plain = open_recipe(recipe), list[int](), getattr(make, work)
    monkeypatch.setattr(make, work, lambda *given: made.append(given[2]) or plain(*given))

    def ranked(folder: Path, **more: Any) -> Ranking:
        folder.mkdir(exist_ok=True)
        return rank_layers(source, mixture, settings, folder, compute=Compute(), **more)

    whole = ranked(tmp_path / "whole")
    expected, read = tree(tmp_path / "whole"), read_ranking(source.spec, tmp_path / "whole")
    assert torch.equal(read.sensitivity, mixture.sensitivity())
    assert (read.scores is None) is (recipe == "reconstruct")
    for option, other in zip(whole.options, read.options, strict=True):
        assert_same_options(option, other)
    for last in range(3):
        folder = tmp_path / str(last)

        def interrupt(layer: int, last: int = last) -> None:
            if layer == last:
                raise Killed

        with pytest.raises(Killed):
            ranked(folder, on_layer=interrupt)
        if last < 2:
            (folder / "layer-00002.safetensors.part").write_bytes(b"half a file")
        made.clear()
        done: list[int] = []
        again = ranked(folder, on_layer=done.append)
        assert done == [0, 1, 2]
        assert sorted(set(made)) == list(range(last + 1, 3))
        assert tree(folder) == expected
        plans = [plan_variant(source, mixture, ranking, settings, 0.3) for ranking in (whole, again)]
        assert plans[0] == plans[1]
    file = tmp_path / "whole" / "layer-00002.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="rank again"):
        read_ranking(source.spec, file.parent)
