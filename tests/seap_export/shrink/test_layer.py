"""A layer is cut along the right axes, and compensation keeps its mean output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from micro import micro_config

from seap_export.activations.moments import Moments
from seap_export.activations.statistics import LayerMoments
from seap_export.families import ModelSpec, model_spec
from seap_export.plan.plan import LayerPlan
from seap_export.shrink.layer import compensation_bias, shrink_layer

LAYER = 1
#: Of 6 query heads in 3 groups of 2: group 1 goes, group 0 keeps its second head, group 2 its first.
PLAN = LayerPlan(num_heads_per_group=2, kv_groups=(0, 2), heads=(1, 4), neurons=(0, 3, 79))
WHOLE = LayerPlan(2, (0, 1, 2), tuple(range(6)), tuple(range(80)))
QUERIES = [*range(16, 32), *range(64, 80)]
KEYS = [*range(16), *range(32, 48)]


def biased_spec(**values: Any) -> ModelSpec:
    return model_spec(micro_config(**{"model_type": "llama", "attention_bias": True, "mlp_bias": True, **values}))


def random_layer(spec: ModelSpec) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in spec.layer_tensors(LAYER).items()}


def moments_of(channels: int, seed: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    return Moments(5, mean, torch.ones_like(mean))


MOMENTS = LayerMoments(moments_of(96, 1), moments_of(80, 2))


@pytest.mark.parametrize("compensation", ["bias", "none"])
@pytest.mark.parametrize("values", [{}, {"attention_bias": False, "mlp_bias": False}, {"model_type": "qwen3"}])
def test_names_and_shapes_are_those_of_the_plan(values: dict[str, Any], compensation: Any) -> None:
    spec = biased_spec(**values)
    own = (spec.layers[0], PLAN.spec(spec.layers[LAYER], compensation), spec.layers[2])
    shrunk = shrink_layer(random_layer(spec), spec, LAYER, PLAN, compensation, MOMENTS)
    assert {name: tuple(tensor.shape) for name, tensor in shrunk.items()} == spec.with_layers(own).layer_tensors(LAYER)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("self_attn.q_proj", QUERIES),
        ("self_attn.k_proj", KEYS),
        ("self_attn.v_proj", KEYS),
        ("mlp.gate_proj", [0, 3, 79]),
        ("mlp.up_proj", [0, 3, 79]),
    ],
)
def test_rows_and_their_biases_are_the_kept_ones(name: str, kept: list[int]) -> None:
    spec = biased_spec()
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN, "bias", MOMENTS)
    for part in ("weight", "bias"):
        full = f"model.layers.1.{name}.{part}"
        assert torch.equal(shrunk[full], tensors[full][kept])


@pytest.mark.parametrize(("name", "kept"), [("self_attn.o_proj", QUERIES), ("mlp.down_proj", [0, 3, 79])])
def test_columns_are_the_kept_ones_and_without_compensation_the_bias_stays(name: str, kept: list[int]) -> None:
    spec = biased_spec()
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN, "none", MOMENTS)
    assert torch.equal(shrunk[f"model.layers.1.{name}.weight"], tensors[f"model.layers.1.{name}.weight"][:, kept])
    assert torch.equal(shrunk[f"model.layers.1.{name}.bias"], tensors[f"model.layers.1.{name}.bias"])


def test_norms_stay() -> None:
    spec = biased_spec(model_type="qwen3")
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN, "bias", MOMENTS)
    norms = [name for name in tensors if "norm" in name]
    assert len(norms) == 4
    assert all(torch.equal(shrunk[name], tensors[name]) for name in norms)


def test_the_dense_tensors_are_not_changed() -> None:
    spec = biased_spec()
    tensors = random_layer(spec)
    shrink_layer(tensors, spec, LAYER, PLAN, "bias", MOMENTS)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in random_layer(spec).items())


@pytest.mark.parametrize("old_bias", [True, False])
@pytest.mark.parametrize("name", ["o_proj", "down_proj"])
def test_compensation_keeps_the_mean_output(name: str, old_bias: bool) -> None:
    """Over any inputs with these means, the shrunk projection's mean output is the dense one's."""
    spec = biased_spec(attention_bias=old_bias, mlp_bias=old_bias)
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN, "bias", MOMENTS)
    weight = next(key for key in tensors if key.endswith(f"{name}.weight"))
    bias = weight.removesuffix("weight") + "bias"
    mean = getattr(MOMENTS, name).mean
    kept = torch.tensor(QUERIES if name == "o_proj" else PLAN.neurons)
    dense = tensors[weight].double() @ mean + (tensors[bias].double() if old_bias else 0.0)
    torch.testing.assert_close(shrunk[weight].double() @ mean[kept] + shrunk[bias].double(), dense)


@pytest.mark.parametrize("compensation", ["bias", "none"])
@pytest.mark.parametrize("values", [{}, {"attention_bias": False, "mlp_bias": False}])
def test_a_layer_kept_whole_stays_as_it_is(values: dict[str, Any], compensation: Any) -> None:
    spec = biased_spec(**values)
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, WHOLE, compensation, MOMENTS)
    assert shrunk.keys() == tensors.keys()
    assert all(torch.equal(shrunk[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("bias", [None, torch.tensor([0.5, -1.0])])
def test_the_compensation_is_the_mean_contribution_of_what_is_removed(bias: torch.Tensor | None) -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mean = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)
    moved = compensation_bias(weight, bias, mean, torch.tensor([1]))
    expected = torch.tensor([3010.0, 6040.0], dtype=torch.float64)
    assert torch.equal(moved, expected if bias is None else expected + bias.double())


def test_half_precision_contributions_are_summed_in_float64() -> None:
    """1 + 4096 times 2^-12 is 2, which bfloat16 cannot reach by adding one after the other."""
    weight = torch.full((1, 4098), 2.0**-12, dtype=torch.bfloat16)
    weight[0, :2] = 1.0
    moved = compensation_bias(weight, None, torch.ones(4098, dtype=torch.float64), torch.tensor([0]))
    assert moved.item() == 2.0
