"""A plan is made from the scores or the losses of the very model it is for, after an interruption too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from support.calibration import Killed, single_mixture
from support.exports import tree
from support.models import micro_source, write_micro_model
from support.plans import assert_same_options, kept_sizes
from support.product import OUTPUTS, Calibration, Compute, Projection, Source, TaskMixture, open_recipe, open_source

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import names
from seap_export.pruning.plan import make
from seap_export.pruning.plan.layer_options import options_from_elimination, options_from_scores
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import Ranking, read_ranking
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sparsity import Sparsity
from seap_export.pruning.scores import CHANNEL_SCORES, LayerScores, channel_scores, layer_scores, unit_scores

Calibrate = Callable[..., Calibration]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return micro_source(tmp_path / "model")


def mixture_of_two(source: Source, calibrate: Calibrate) -> TaskMixture:
    calibrations = {task: calibrate(source, task, seed) for seed, task in enumerate(("one", "two"))}
    return TaskMixture("mix", {"one": 1.0, "two": 2.0}, calibrations)


def ranking_of(source: Source, statistics: TaskMixture, score: Any, **changes: Any) -> Ranking:
    done: list[int] = []
    settings = PlanSettings(score, **{"ridge": 1.0, **changes})
    with TemporaryDirectory() as folder:
        ranking = rank_layers(source, statistics, settings, Path(folder), done.append, compute=Compute())
    assert done == [0, 1, 2]
    assert torch.equal(ranking.sensitivity, statistics.sensitivity())
    assert (ranking.scores is None) is (score == "elimination")
    return ranking


@pytest.mark.parametrize(("score", "ridge"), [*((score, 1.0) for score in CHANNEL_SCORES), ("elimination", 20.0)])
@pytest.mark.parametrize("variation", ["llama-gqa", "glm4", "exaone4", "gemma2-all"])
def test_every_layer_is_ranked_by_its_own_weights_and_statistics(
    tmp_path: Path, random_calibration: Calibrate, variation: str, score: Any, ridge: float
) -> None:
    """Rows count by the gain of a norm behind them, as if it were part of the projection.

    An elimination sees the covariances of the mixture and the ridge of the refit.
    """
    source = micro_source(tmp_path / variation, variation)
    mixture = mixture_of_two(source, random_calibration)
    assert mixture.effective_tokens == pytest.approx(72)  # of 80, unevenly weighted
    statistics = mixture if score == "elimination" else single_mixture(mixture.calibrations["one"])
    ranking = ranking_of(source, statistics, score, ridge=ridge)
    by_power = {1: ranking}
    if score != "elimination":
        by_power[2] = ranking_of(source, statistics, score, sparsity=Sparsity("global"))
    for index, (layer, options) in enumerate(zip(source.spec.layers, ranking.options, strict=True)):
        tensors, weights = source.read_layer(index), dict[Projection, torch.Tensor]()
        for output, norm in (("o_proj", "post_self_attn_layernorm"), ("down_proj", "post_mlp_layernorm")):
            gain = torch.ones(1) if variation == "llama-gqa" else tensors[names.tensor(norm, index)].float()
            weights[output] = gain.unsqueeze(1) * tensors[names.weight(output, index)].float()  # type: ignore[index, arg-type]
        if score == "elimination":
            covariances = {output: mixture.covariance(index, output) for output in OUTPUTS}
            relative = ridge / mixture.effective_tokens
            expected = options_from_elimination(source.spec, index, weights, covariances, ridge=relative)
        else:
            moments = mixture.calibrations["one"].layer(index)
            scores = {output: channel_scores(score, weights[output], moments[output]) for output in OUTPUTS}
            heads, neurons = scores["o_proj"].view(6, -1), scores["down_proj"]
            for power, made in by_power.items():
                found = (made.scores or ())[index]
                torch.testing.assert_close(
                    unit_scores(found["o_proj"]), heads.pow(power).mean(1), rtol=1e-12, atol=0.0
                )
                assert torch.equal(found["down_proj"], neurons)
            expected = options_from_scores(source.spec, index, layer_scores(score, weights, moments, layer))
        assert_same_options(options, expected)


def test_what_cannot_be_ranked_is_refused(source: Source, tmp_path: Path, random_calibration: Calibrate) -> None:
    other = open_source(str(write_micro_model(tmp_path / "other", seed=1, model_type="llama")))
    with pytest.raises(InputError, match="'boolq' was made with another model"):
        ranking_of(source, single_mixture(random_calibration(other)), "wifv")
    with pytest.raises(UsageError, match="has none; use another recipe"):  # no experts
        ranking_of(source, single_mixture(random_calibration(source)), "reap")


def total(scores: tuple[LayerScores, ...]) -> float:
    return sum(float(score["o_proj"].sum() + score["down_proj"].sum()) for score in scores)


@pytest.mark.parametrize(("score", "mix"), [("wifv", "scaled"), ("wifn", "scaled"), ("wifv", "plain")])
def test_scores_of_tasks_are_added(source: Source, random_calibration: Calibrate, score: Any, mix: Any) -> None:
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


def test_the_sensitivity_decides_too(source: Source, random_calibration: Calibrate) -> None:
    statistics = single_mixture(random_calibration(source))

    def planned(ranking: Ranking) -> Plan:
        settings = PlanSettings("wifv", Sparsity("adaptive"), align=4, compensation="none")
        return plan_variant(source, statistics, ranking, settings, 0.3)

    ranking = ranking_of(source, statistics, "elimination")
    plan = planned(ranking)
    other = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1e6, 1e6]], dtype=torch.float64)
    sensitive = planned(dataclasses.replace(ranking, sensitivity=other))
    assert sensitive.layers[2] != plan.layers[2]
    assert kept_sizes(sensitive.layers[2]) == (3, 6, 80)


@pytest.mark.parametrize(("recipe", "work"), [("reconstruct", "_eliminate"), ("seap", "_scores")])
def test_an_interrupted_ranking_goes_on_and_is_the_same(
    tmp_path: Path, random_calibration: Calibrate, recipe: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file counts as none, and a damaged one is refused."""
    settings, made, plain = open_recipe(recipe), list[int](), getattr(make, work)
    source = micro_source(tmp_path / "model")
    mixture = mixture_of_two(source, random_calibration)
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
