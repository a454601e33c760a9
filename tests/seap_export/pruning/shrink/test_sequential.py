"""Fitting layer by layer is what a plain loop over transformers' model gives, and better than fitting each alone."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.calibration import mixture_of, single_mixture
from support.corpora import random_token_ids
from support.models import micro_source, projection_paths, transformers_model
from support.oracles.plain_loop import WITHOUT_BIAS, plain_loop
from support.plans import micro_plan, uniform_plan
from support.product import OUTPUTS, Calibration, Compute, Plan, Source, TaskMixture, write_shrunk_model
from transformers import PreTrainedModel

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.model.families import names
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer
from seap_export.pruning.shrink.refit import refit_from_dense
from seap_export.pruning.shrink.refit_streams import RefitStreams
from seap_export.pruning.shrink.sequential import SequentialLayers
from seap_export.pruning.shrink.single import single_layers

TEXTS = random_token_ids(8, longest=40)
COMPUTE = Compute(batch_tokens=64)
#: Windows, normalised queries and keys, biases of queries, keys, values and outputs, and one head a group.
FITTED = ("llama-mha", "mistral-window", "qwen3-biases")


def fitted_layers(source: Source, plan: Plan, statistics: TaskMixture) -> list[dict[str, torch.Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        return list(SequentialLayers(source, plan, statistics, Path(folder), COMPUTE).layers(0))


def written(folder: Path, source: Source, plan: Plan, statistics: TaskMixture) -> PreTrainedModel:
    folder.mkdir()
    write_shrunk_model(source, plan, statistics, folder, compute=COMPUTE)
    return transformers_model(folder)


@torch.no_grad()
def logits(model: PreTrainedModel, texts: Sequence[Sequence[int]] = TEXTS) -> torch.Tensor:
    return torch.cat([model(torch.tensor([ids]), use_cache=False).logits[0] for ids in texts])


@torch.no_grad()
def last_stream(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The residual stream behind the last layer, [tokens, hidden_size]."""
    seen: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].double()))
    for ids in texts:
        model(torch.tensor([ids]), use_cache=False)
    hook.remove()
    return torch.cat(seen)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Within a small part of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("layout", "variation", "ridge"),
    [
        *(("per-layer", variation, 0.05) for variation in FITTED),
        ("per-layer", "llama-gqa", 5.0),
        ("uniform", "llama-mqa", 0.05),
        ("uniform", "llama-biases", 5.0),
        ("uniform", "mistral-window", 0.05),
        ("uniform", "qwen2-window", 5.0),
    ],
)
def test_it_is_what_a_plain_loop_gives(tmp_path: Path, layout: str, variation: str, ridge: float) -> None:
    """In the uniform layout without an intercept where the family's class has no bias."""
    source = micro_source(tmp_path / "model", variation)
    statistics = mixture_of(source, tmp_path / "statistics", {"boolq": TEXTS})
    plan = (micro_plan if layout == "per-layer" else uniform_plan)(source, "sequential", ridge=ridge)
    expected = plain_loop(tmp_path / "model", source, plan, {"boolq": TEXTS})
    without = WITHOUT_BIAS[source.spec.family.model_type]
    for index, layer in enumerate(fitted_layers(source, plan, statistics)):
        for output in OUTPUTS:
            linear = expected.model.layers[index].get_submodule(projection_paths(expected)[output])
            kept = kept_channels(plan.layers[index], source.spec.layers[0], output)  # type: ignore[arg-type]
            name = names.tensor(output, index)
            assert_close(layer[f"{name}.weight"].float(), linear.weight.detach()[:, kept], 1e-4)
            assert layout == "per-layer" or (linear.bias is not None) is (output not in without)
            assert (f"{name}.bias" in layer) is (linear.bias is not None)
            if linear.bias is not None:
                assert_close(layer[f"{name}.bias"].float(), linear.bias.detach(), 2e-4)
    shrunk = written(tmp_path / "shrunk", source, plan, statistics)
    assert_close(logits(shrunk), logits(expected), 1e-4)
    assert_close(logits(shrunk, random_token_ids(4, 9)), logits(expected, random_token_ids(4, 9)), 1e-4)


def test_a_mixture_is_what_a_plain_loop_over_weighted_tokens_gives(tmp_path: Path) -> None:
    """One text is in both tasks; the tasks are of different sizes."""
    source = micro_source(tmp_path / "model")
    tasks = {"one": [TEXTS[3], *random_token_ids(4, 1)], "two": [TEXTS[3], *random_token_ids(14, 2)]}
    weights = {"one": 5.0, "two": 0.5}
    statistics = mixture_of(source, tmp_path / "statistics", tasks, **weights)
    plan = micro_plan(source, "sequential", weights=weights, ridge=0.3)
    expected = plain_loop(tmp_path / "model", source, plan, tasks)
    shrunk = written(tmp_path / "shrunk", source, plan, statistics)
    assert_close(logits(shrunk), logits(expected), 1e-4)
    even = plain_loop(tmp_path / "model", source, dataclasses.replace(plan, weights={"one": 1.0, "two": 1.0}), tasks)
    assert (logits(even) - logits(expected)).abs().max() > 0.01 * logits(expected).abs().max()


def test_later_layers_correct_the_rounding_to_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = micro_source(tmp_path / "model", dtype="bfloat16")
    statistics = mixture_of(source, tmp_path / "statistics", {"boolq": TEXTS})
    plan, streams, plain = micro_plan(source, "sequential"), list[Any](), RefitStreams.layer

    def noted(self: Any, index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outcome = plain(self, index, tensors)
        streams[:] = list(self._shrunk.streams)
        return outcome

    monkeypatch.setattr(RefitStreams, "layer", noted)
    layers = fitted_layers(source, plan, statistics)
    stream = torch.cat([part.double() for part in streams])
    shrunk = written(tmp_path / "shrunk", source, plan, statistics)  # runs what is stored, in float32
    stored = load_file(tmp_path / "shrunk" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert all(torch.equal(stored[name], tensor) for layer in layers for name, tensor in layer.items())
    in_batches = sorted(TEXTS, key=lambda ids: (len(ids), list(ids)))
    assert_close(stream, last_stream(shrunk, in_batches), 1e-5)


@pytest.mark.parametrize(
    ("plan_of_all", "variation"),
    [(micro_plan, "llama-biases"), (micro_plan, "qwen2"), (uniform_plan, "mistral"), (uniform_plan, "qwen3-biases")],
)
def test_cut_projections_are_fitted_each_alone_and_all_else_is_the_dense_layer_s(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration], plan_of_all: Any, variation: str
) -> None:
    """In the uniform layout without an intercept where the family's class has no bias, and zeros behind a switch."""
    source = micro_source(tmp_path / "model", variation)
    statistics, plan = single_mixture(random_calibration(source)), plan_of_all(source, "one-shot")
    is_uniform = plan.settings.layout == "uniform"
    cut = (set(OUTPUTS),) * 3 if is_uniform else (set(), set(OUTPUTS), {"o_proj"})
    layers = list(single_layers(source, plan, statistics))
    for index, tensors in enumerate(layers):
        dense = source.read_layer(index)
        expected = shrink_layer(dense, source.spec, index, plan.layers[index])
        for output in cut[index]:
            weight, bias = names.weight(output, index), names.bias(output, index)
            intercept = not is_uniform or output not in WITHOUT_BIAS[source.spec.family.model_type]
            fit = refit_from_dense(
                dense[weight], dense.get(bias), statistics.layer(index)[output].mean,
                statistics.covariance(index, output), kept_channels(plan.layers[index], source.spec.layers[0], output),
                ridge=plan.settings.ridge, tokens=40, intercept=intercept,
            )  # fmt: skip
            expected |= {weight: fit.weight} | ({} if fit.bias is None else {bias: fit.bias})
        shapes = plan.shrunk_spec(source.spec).layer_tensors(index)
        assert tensors.keys() == shapes.keys() >= expected.keys()
        for name, shape in shapes.items():
            assert torch.equal(tensors[name].float(), expected.get(name, torch.zeros(shape)).float()), name
    assert len(layers) == 3
