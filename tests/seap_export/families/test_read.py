"""The shapes read from a config.json are those of the transformers model, and what cannot be pruned is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from micro import VARIATIONS, micro_config
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.errors import InputError
from seap_export.families import LayerSpec, dense_config, model_spec

PER_LAYER = {
    "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 7, "o_proj_bias": True},
    "2": {"intermediate_size": 33, "down_proj_bias": True},
}


def meta_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """The transformers model of a config, without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def shapes_in_transformers(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Name and shape of all tensors, a tied LM head left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


@pytest.mark.parametrize("variation", VARIATIONS)
def test_tensors_are_those_of_the_transformers_model(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    assert model_spec(config).tensors() == shapes_in_transformers(meta_model(config))


@pytest.mark.parametrize("variation", VARIATIONS)
def test_parameters_are_counted_as_torch_counts_them(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    assert model_spec(config).num_parameters() == sum(p.numel() for p in meta_model(config).parameters())


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_tensors_of_a_pruned_model_are_those_of_the_transformers_model(family: str) -> None:
    config = micro_config(model_type=f"seap_{family}", per_layer_config=PER_LAYER)
    assert model_spec(config).tensors() == shapes_in_transformers(meta_model(config))


def test_per_layer_config_overrides_only_what_it_names() -> None:
    first, second, third = model_spec(micro_config(model_type="seap_llama", per_layer_config=PER_LAYER)).layers
    assert first == LayerSpec(2, 1, 7, frozenset({"o_proj"}))
    assert second == LayerSpec(6, 3, 80, frozenset())
    assert third == LayerSpec(6, 3, 33, frozenset({"down_proj"}))


def test_per_layer_config_may_have_whole_numbers_as_keys() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={int(key): PER_LAYER[key] for key in PER_LAYER})
    assert model_spec(config) == model_spec({**config, "per_layer_config": PER_LAYER})


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window", "qwen2", "qwen3"])
def test_the_dense_model_is_read_from_a_pruned_one_s_config(variation: str) -> None:
    dense = micro_config(**VARIATIONS[variation])
    per_layer = {**dense, "model_type": f"seap_{dense['model_type']}", "per_layer_config": PER_LAYER}
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 80}
    plain = {**dense, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    plain |= {"attention_bias": True, "pruned_from": {**sizes, "attention_bias": False}}
    for pruned in (per_layer, plain):
        assert model_spec(dense_config(pruned)) == model_spec(dense) != model_spec(pruned)
    assert dense_config(dense) == dense


def test_head_dim_is_the_dense_one_where_layers_have_fewer_heads() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={"0": {"num_attention_heads": 3}})
    assert model_spec(config).head_dim == 16


def test_an_absent_head_dim_is_the_hidden_size_over_the_heads() -> None:
    assert model_spec({**micro_config(model_type="llama"), "head_dim": None}).head_dim == 16


def test_absent_key_value_heads_are_as_many_as_query_heads() -> None:
    config = micro_config(model_type="llama")
    del config["num_key_value_heads"]
    assert {layer.num_key_value_heads for layer in model_spec(config).layers} == {6}


@pytest.mark.parametrize("biases", [{"q_proj"}, {"q_proj", "v_proj", "o_proj"}])
def test_queries_keys_and_values_have_biases_together(biases: set[Any]) -> None:
    with pytest.raises(InputError, match="must have a bias"):
        LayerSpec(6, 3, 80, frozenset(biases))


def test_a_config_gives_other_biases_than_the_compensation_to_no_layer() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={"1": {"q_proj_bias": True, "o_proj_bias": True}})
    assert model_spec(config).layers[1].biases == {"o_proj"}


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim"])
def test_an_absent_shape_means_what_transformers_takes_it_for_or_is_refused(model_type: str, key: str) -> None:
    config = micro_config(model_type=model_type, num_attention_heads=32, hidden_size=2048)
    del config[key]
    try:
        tensors = model_spec(config).tensors()
    except InputError:
        return
    assert tensors == shapes_in_transformers(meta_model(config))


def test_an_absent_window_of_mistral_means_what_transformers_takes_it_for() -> None:
    config = micro_config(model_type="mistral", max_position_embeddings=32768)
    windows = {layer.sliding_window for layer in model_spec(config).layers}
    assert windows == {AutoConfig.for_model(**config).sliding_window}


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        ({"model_type": "llama", "sliding_window": 5}, [None, None, None]),
        ({"model_type": "mistral", "sliding_window": 5}, [5, 5, 5]),
        ({"model_type": "mistral", "sliding_window": None}, [None, None, None]),
        ({"model_type": "qwen2", "sliding_window": 5}, [None, None, None]),
        ({"model_type": "qwen2", "sliding_window": 5, "use_sliding_window": True}, [None, None, None]),
        ({"model_type": "qwen2", "sliding_window": 5, "max_window_layers": 0}, [None, None, None]),
        (VARIATIONS["qwen2-window"], [None, 5, 5]),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 5,
                "use_sliding_window": True,
                "max_window_layers": 0,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            [5, None, 5],
        ),
    ],
)
def test_a_layer_attends_within_the_window_that_the_config_gives_it(
    values: dict[str, Any], windows: list[int | None]
) -> None:
    assert [layer.sliding_window for layer in model_spec(micro_config(**values)).layers] == windows


LINEAR_SPELLINGS: list[dict[str, Any]] = [
    {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": 5000.0, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
    {"rope_theta": None, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
]


@pytest.mark.parametrize("values", LINEAR_SPELLINGS, ids=["oldest", "transformers 4", "transformers 5"])
def test_scaled_rope_is_read_in_every_spelling(values: dict[str, Any]) -> None:
    rope = model_spec(micro_config(model_type="llama", **values)).rope
    assert (rope.theta, rope.rope_type, dict(rope.parameters)) == (5000.0, "linear", {"factor": 4.0})


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": 5000.0, "rope_scaling": None},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}},
    ],
    ids=["transformers 4", "transformers 5"],
)
def test_plain_rope_is_read_in_every_spelling(values: dict[str, Any]) -> None:
    rope = model_spec(micro_config(model_type="llama", **values)).rope
    assert (rope.theta, rope.rope_type, dict(rope.parameters)) == (5000.0, "default", {})


def test_yarn_starts_from_the_model_s_length_where_it_names_no_other() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0}
    rope = model_spec(micro_config(model_type="llama", rope_scaling=scaling)).rope
    assert rope.parameters["original_max_position_embeddings"] == 128


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope", "mrope"])
def test_a_rope_type_that_is_not_supported_is_refused_by_name(rope_type: str) -> None:
    with pytest.raises(InputError, match=f"'{rope_type}' is not supported.*default, linear, llama3, yarn"):
        model_spec(micro_config(model_type="llama", rope_scaling={"rope_type": rope_type, "factor": 2.0}))


@pytest.mark.parametrize("rope_type", ["linear", "llama3", "yarn"])
def test_a_rope_type_without_its_factor_is_refused(rope_type: str) -> None:
    with pytest.raises(InputError, match="factor"):
        model_spec(micro_config(model_type="llama", rope_scaling={"rope_type": rope_type}))


def test_a_negative_theta_is_refused() -> None:
    with pytest.raises(InputError, match="rope_theta"):
        model_spec(micro_config(model_type="llama", rope_theta=-1.0))


@pytest.mark.parametrize(
    "values",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ],
    ids=["transformers 4", "transformers 5"],
)
def test_partial_rotation_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"partial_rotary_factor 0\.5"):
        model_spec(micro_config(model_type="llama", **values))


def test_full_rotation_may_be_spelled_out() -> None:
    assert model_spec(micro_config(model_type="llama", partial_rotary_factor=1.0)).head_dim == 16


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_another_activation_is_refused_by_name(activation: str) -> None:
    with pytest.raises(InputError, match=activation):
        model_spec(micro_config(model_type="llama", hidden_act=activation))


def test_a_quantised_model_is_refused_by_its_method() -> None:
    with pytest.raises(InputError, match="gptq"):
        model_spec(micro_config(model_type="llama", quantization_config={"quant_method": "gptq"}))


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "96", True])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers"])
def test_a_size_that_is_no_positive_whole_number_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        model_spec(micro_config(model_type="llama", **{key: value}))


@pytest.mark.parametrize("value", [-1, 1.5, "16", True])
@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads"])
def test_a_shape_that_may_be_absent_must_be_a_positive_whole_number_too(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        model_spec(micro_config(model_type="llama", **{key: value}))


def test_query_heads_that_cannot_share_key_value_heads_evenly_are_refused() -> None:
    with pytest.raises(InputError, match="not a multiple"):
        model_spec(micro_config(model_type="llama", num_key_value_heads=4))


def test_prunable_weights_are_those_of_the_seven_projections() -> None:
    spec = model_spec(micro_config(model_type="llama", attention_bias=True, mlp_bias=True))
    matrices = [shape for shape in spec.layer_tensors(1).values() if len(shape) == 2]
    assert len(matrices) == 7
    assert spec.prunable_weights(1) == sum(map(math.prod, matrices))
