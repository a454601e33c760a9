"""A layer is cut along the right axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.plans import kept_layer
from support.variations import micro_config

from seap_export.model.families import ModelSpec, model_spec
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer, with_all_biases

LAYER = 1
#: Of 6 query heads in 3 groups of 2: group 1 goes, group 0 keeps its second head, group 2 its first.
PLAN = kept_layer(2, kv_groups=(0, 2), heads=(1, 4), neurons=(0, 3, 79))
WHOLE = kept_layer(2, range(3), range(6), range(80))
QUERIES = [*range(16, 32), *range(64, 80)]
KEYS = [*range(16), *range(32, 48)]


def biased_spec(**values: Any) -> ModelSpec:
    biases = {"attention_bias": True, "mlp_bias": True} if "model_type" not in values else {}
    return model_spec(micro_config(**{"model_type": "llama", **biases, **values}))


def random_layer(spec: ModelSpec) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in spec.layer_tensors(LAYER).items()}


@pytest.mark.parametrize(
    "values", [{}, {"attention_bias": False, "mlp_bias": False}, {"model_type": "qwen3"}, {"model_type": "glm4"}]
)
def test_names_and_shapes_are_those_of_the_plan(values: dict[str, Any]) -> None:
    spec = biased_spec(**values)
    layers = (spec.layers[0], PLAN.spec(spec.layers[LAYER], frozenset()), spec.layers[2])
    shrunk = shrink_layer(random_layer(spec), spec, LAYER, PLAN)
    assert {name: tuple(tensor.shape) for name, tensor in shrunk.items()} == spec.with_layers(layers).layer_tensors(
        LAYER
    )


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
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN)
    for part in ("weight", "bias"):
        full = f"model.layers.1.{name}.{part}"
        assert torch.equal(shrunk[full], tensors[full][kept])


@pytest.mark.parametrize(("name", "kept"), [("self_attn.o_proj", QUERIES), ("mlp.down_proj", [0, 3, 79])])
def test_columns_are_the_kept_ones_and_their_bias_stays(name: str, kept: list[int]) -> None:
    spec = biased_spec()
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN)
    assert torch.equal(shrunk[f"model.layers.1.{name}.weight"], tensors[f"model.layers.1.{name}.weight"][:, kept])
    assert torch.equal(shrunk[f"model.layers.1.{name}.bias"], tensors[f"model.layers.1.{name}.bias"])


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2", "exaone4"])
def test_norms_stay(model_type: str) -> None:
    spec = biased_spec(model_type=model_type)
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, PLAN)
    norms = [name for name in tensors if "norm" in name]
    assert len(norms) == 4
    assert all(torch.equal(shrunk[name], tensors[name]) for name in norms)


def test_the_dense_tensors_are_not_changed() -> None:
    spec = biased_spec()
    tensors = random_layer(spec)
    shrink_layer(tensors, spec, LAYER, PLAN)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in random_layer(spec).items())


@pytest.mark.parametrize("values", [{}, {"attention_bias": False, "mlp_bias": False}])
def test_a_layer_kept_whole_stays_as_it_is(values: dict[str, Any]) -> None:
    spec = biased_spec(**values)
    tensors = random_layer(spec)
    shrunk = shrink_layer(tensors, spec, LAYER, WHOLE)
    assert shrunk.keys() == tensors.keys()
    assert all(torch.equal(shrunk[name], tensors[name]) for name in tensors)


def test_kept_channels_are_the_inputs_of_the_projections() -> None:
    spec = biased_spec()
    assert kept_channels(PLAN, spec.layers[0], "o_proj").tolist() == QUERIES
    assert kept_channels(PLAN, spec.layers[0], "down_proj").tolist() == [0, 3, 79]


def test_places_for_biases_are_filled_with_zeros_and_what_is_there_stays() -> None:
    dense = model_spec(micro_config(model_type="qwen2"))
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    layer = dense.layers[0].changed(**sizes, biases={"q_proj", "k_proj", "v_proj", "o_proj"})
    spec = dense.with_layers((layer,) * 3)
    tensors = {"model.layers.1.self_attn.q_proj.bias": torch.ones(64), "other": torch.ones(1)}
    filled = with_all_biases(tensors, spec, 1)
    assert {name: (tuple(tensor.shape), float(tensor.sum())) for name, tensor in filled.items()} == {
        "other": ((1,), 1.0),
        "model.layers.1.self_attn.q_proj.bias": ((64,), 64.0),
        "model.layers.1.self_attn.k_proj.bias": ((32,), 0.0),
        "model.layers.1.self_attn.v_proj.bias": ((32,), 0.0),
        "model.layers.1.self_attn.o_proj.bias": ((96,), 0.0),
    }
