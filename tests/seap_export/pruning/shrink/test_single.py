"""Compensation from the dense statistics: each projection's own refit or bias, wherever channels are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.calibration import mixture_of, single_mixture
from support.chosen import VARIED
from support.corpora import random_token_ids
from support.models import micro_source, projection_inputs, transformers_model
from support.plans import micro_plan, whole_layer, with_settings
from support.product import OUTPUTS, Calibration, Compensation, Source, TaskMixture

from seap_export.model.families import names
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer
from seap_export.pruning.shrink.refit import mean_fit, refit_from_dense
from seap_export.pruning.shrink.single import single_layers

#: What `micro_plan` cuts.
CUT = (set(), {"o_proj", "down_proj"}, {"o_proj"})


@pytest.mark.parametrize("variation", ["llama-gqa", "llama-biases", "qwen3-biases"])
@pytest.mark.parametrize("compensation", ["one-shot", "bias", "none"])
def test_the_cut_projections_have_their_fit_and_all_else_is_the_dense_layer_s(
    tmp_path: Path,
    random_calibration: Callable[[Source], Calibration],
    variation: str,
    compensation: Compensation,
) -> None:
    source = micro_source(tmp_path / "model", variation)
    statistics, plan = single_mixture(random_calibration(source)), micro_plan(source, compensation)
    for index, tensors in enumerate(single_layers(source, plan, statistics)):
        dense = source.read_layer(index)
        expected = shrink_layer(dense, source.spec, index, plan.layers[index])
        for output in OUTPUTS:
            if compensation == "none" or output not in CUT[index]:
                continue
            weight, bias = dense[names.weight(output, index)], dense.get(names.bias(output, index))
            mean = statistics.layer(index)[output].mean
            kept = kept_channels(plan.layers[index], source.spec.layers[0], output)
            covariance = statistics.covariance(index, output)
            fit = (
                mean_fit(weight, bias, mean, kept)
                if compensation == "bias"
                else refit_from_dense(weight, bias, mean, covariance, kept, ridge=plan.settings.ridge, tokens=40)
            )
            expected |= {names.weight(output, index): fit.weight, names.bias(output, index): fit.bias}
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert index == 2


@pytest.mark.parametrize("variation", ["llama-gqa", "llama-biases"])
@pytest.mark.parametrize("compensation", ["one-shot", "bias"])
def test_a_compensated_projection_keeps_its_mean_output(
    tmp_path: Path, variation: str, compensation: Compensation
) -> None:
    """Over the calibration texts, as the dense model runs them."""
    source = micro_source(tmp_path / "model", variation)
    statistics = mixture_of(source, tmp_path / "statistics", {"boolq": random_token_ids()})
    plan = micro_plan(source, compensation)
    seen = projection_inputs(transformers_model(tmp_path / "model"), random_token_ids())
    for index, tensors in enumerate(single_layers(source, plan, statistics)):
        dense = source.read_layer(index)
        for output in CUT[index]:
            weight, bias = names.weight(output, index), names.bias(output, index)  # type: ignore[arg-type]
            mean = seen[index][output].mean(0)
            kept = kept_channels(plan.layers[index], source.spec.layers[0], output)  # type: ignore[arg-type]
            expected = dense[weight].double() @ mean + dense.get(bias, torch.zeros(96)).double()
            actual = tensors[weight].double() @ mean[kept] + tensors[bias].double()
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_a_mixture_s_tasks_count(
    tmp_path: Path, random_calibration: Callable[..., Calibration]
) -> None:
    source = micro_source(tmp_path / "model")
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(("one", "two"))}
    plan = micro_plan(source, "one-shot")
    name = "model.layers.1.mlp.down_proj.weight"

    def fitted(weight: float) -> torch.Tensor:
        mixture = TaskMixture("mix", {"one": 1.0, "two": weight}, calibrations)
        return list(single_layers(source, plan, mixture))[1][name]

    assert (fitted(1.0) - fitted(1e-9)).abs().max() > 0.01
    assert (fitted(1e-9) - fitted(1e-8)).abs().max() < 1e-5


@pytest.mark.parametrize("variation", VARIED)
def test_a_plan_that_removes_nothing_gives_exactly_the_dense_tensors(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration], variation: str
) -> None:
    source = micro_source(tmp_path / "model", variation)
    plan = micro_plan(source, "one-shot")
    whole = with_settings(plan, layers=tuple(map(whole_layer, source.spec.layers)))
    for index, tensors in enumerate(single_layers(source, whole, single_mixture(random_calibration(source)))):
        dense = source.read_layer(index)
        assert tensors.keys() == dense.keys()
        assert all(torch.equal(tensors[name], dense[name]) for name in dense)
