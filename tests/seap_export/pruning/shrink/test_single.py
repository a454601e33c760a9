"""Compensation from the dense statistics: each projection's own refit or bias, wherever channels are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.calibration import single_mixture
from support.models import micro_source
from support.oracles.plain_loop import WITHOUT_BIAS
from support.plans import micro_plan, uniform_plan
from support.product import OUTPUTS, Calibration, Compensation, Source

from seap_export.model.families import names
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer
from seap_export.pruning.shrink.refit import mean_fit, refit_from_dense
from seap_export.pruning.shrink.single import single_layers

#: What `micro_plan` and `uniform_plan` cut.
CUT = {"per-layer": (set(), {"o_proj", "down_proj"}, {"o_proj"}), "uniform": ({"o_proj", "down_proj"},) * 3}


@pytest.mark.parametrize(
    ("layout", "variation", "compensation"),
    [
        ("per-layer", "llama-gqa", "one-shot"),
        ("per-layer", "llama-biases", "one-shot"),
        ("per-layer", "qwen3-biases", "bias"),
        ("per-layer", "llama-gqa", "bias"),
        ("per-layer", "llama-gqa", "none"),
        ("uniform", "mistral", "one-shot"),
        ("uniform", "qwen2", "bias"),
        ("uniform", "qwen3-biases", "one-shot"),
        ("uniform", "llama-biases", "bias"),
        ("uniform", "llama-gqa", "one-shot"),
    ],
)
def test_cut_projections_have_their_fit_and_all_else_is_the_dense_layer_s(
    tmp_path: Path,
    random_calibration: Callable[[Source], Calibration],
    layout: str,
    variation: str,
    compensation: Compensation,
) -> None:
    """In the uniform layout without an intercept where the family's class has no bias, and zeros behind a switch."""
    source = micro_source(tmp_path / "model", variation)
    statistics = single_mixture(random_calibration(source))
    plan = (micro_plan if layout == "per-layer" else uniform_plan)(source, compensation)
    shrunk_spec = plan.shrunk_spec(source.spec)
    for index, tensors in enumerate(single_layers(source, plan, statistics)):
        dense = source.read_layer(index)
        expected = shrink_layer(dense, source.spec, index, plan.layers[index])
        for output in OUTPUTS if compensation != "none" else ():
            if output not in CUT[layout][index]:
                continue
            weight, bias = dense[names.weight(output, index)], dense.get(names.bias(output, index))
            mean, intercept = statistics.layer(index)[output].mean, True
            if layout == "uniform":
                intercept = output not in WITHOUT_BIAS[source.spec.family.model_type]
            kept = kept_channels(plan.layers[index], source.spec.layers[0], output)
            covariance = statistics.covariance(index, output)
            if compensation == "one-shot":
                fit = refit_from_dense(
                    weight, bias, mean, covariance, kept, ridge=plan.settings.ridge, tokens=40, intercept=intercept
                )
            else:
                fit = mean_fit(weight, bias, mean, kept)
            expected[names.weight(output, index)] = fit.weight
            if intercept and fit.bias is not None:
                expected[names.bias(output, index)] = fit.bias
        shapes = shrunk_spec.layer_tensors(index)
        expected = {name: expected.get(name, torch.zeros(shape)).float() for name, shape in shapes.items()}
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensors[name].float(), tensor), name
    assert index == 2
