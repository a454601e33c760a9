"""The shapes read from a config.json are those of the transformers model, and what cannot be pruned is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.models import meta_model
from support.variations import VARIATIONS, micro_config

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.errors import InputError
from seap_export.model.families import (
    Attention,
    Convolution,
    Experts,
    LayerInput,
    Mlp,
    dense_config,
    language_config,
    model_spec,
)

PER_LAYER = {
    "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 7, "o_proj_bias": True},
    "2": {"intermediate_size": 33, "down_proj_bias": True},
}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_tensors_of_a_pruned_model_are_those_of_the_transformers_model(family: str) -> None:
    config = micro_config(model_type=f"seap_{family}", per_layer_config=PER_LAYER)
    spec = model_spec(config)
    assert spec.tensors() == {name: tuple(one.shape) for name, one in meta_model(config).state_dict().items()}
    assert spec.head_dim == 16
    config = {**micro_config(model_type="seap_gpt2"), "head_dim": 24}  # of which GPT-2 itself has no class
    assert model_spec(config).head_dim == 24


def test_per_layer_config_overrides_only_what_it_names_and_biases_other_than_the_compensation_s_never() -> None:
    per_layer = {int(key): {**values, "q_proj_bias": True} for key, values in PER_LAYER.items()}
    first, second, third = model_spec(micro_config(model_type="seap_llama", per_layer_config=per_layer)).layers
    dense = model_spec(micro_config(model_type="llama")).layers[0]
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 7}
    assert first == dense.changed(**sizes, biases={"o_proj"})
    assert second == dense
    assert third == dense.changed(intermediate_size=33, biases={"down_proj"})
    per_layer = {"1": {"shared_intermediate_size": 7}}  # the family's own name
    spec = model_spec(micro_config(model_type="seap_granitemoehybrid", per_layer_config=per_layer))
    assert [mlp.intermediate_size for mlp in spec.all(Mlp)] == [80, 7, 80]


def test_sizes_of_global_layers_are_read_as_published_and_as_transformers_saves_them() -> None:
    published = micro_config(**VARIATIONS["gemma4_unified"], num_global_key_value_heads=2)
    saved = {key: value for key, value in published.items() if not key.startswith(("global", "num_global"))}
    full = {"head_dim": 32, "num_key_value_heads": 2}
    spec = model_spec({**saved, "per_layer_config": {"01": full, "02": full}})
    assert spec == model_spec(published)
    assert [(one.head_dim, one.num_key_value_heads) for one in spec.all(Attention)] == [(16, 3), (32, 2), (32, 2)]


WRAPPED = {
    "model_type": "gemma3",
    "text_config": {
        key: value for key, value in micro_config(model_type="gemma3_text").items() if key != "model_type"
    },
    "vision_config": {"hidden_size": 8},
    "mm_tokens_per_image": 4,
}


def test_the_language_model_of_a_wrapper_is_read_like_one_of_its_own() -> None:
    assert model_spec(WRAPPED) == model_spec(micro_config(model_type="gemma3_text"))
    inner = language_config({**WRAPPED, "tie_word_embeddings": True, "eos_token_id": [1, 106]})
    assert (inner["model_type"], inner["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert (inner["tie_word_embeddings"], inner["eos_token_id"]) == (True, [1, 106])
    assert not inner.keys() & {"vision_config", "mm_tokens_per_image", "text_config"}


HEADS = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16, "scale": 0.25}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Attention, {**HEADS, "biases": frozenset({"q_proj", "v_proj", "o_proj"})}, "must have a bias"),
        (Convolution, {"conv_dim": 8, "kernel_size": 1}, "fewer than 2 tokens"),
        (LayerInput, {"layer": 0, "hidden_size_per_layer_input": 0}, "at least one input"),
    ],
)
def test_a_sublayer_that_no_model_can_have_is_refused(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_weights_that_are_computed_with_and_that_can_be_pruned_are_counted() -> None:
    experts = Experts(num_experts=8, moe_intermediate_size=16, experts_per_token=2)
    assert experts.active_weights(32) == 8 * 32 + 2 * 3 * 16 * 32  # the router, and those that it chooses
    spec = model_spec(micro_config(model_type="llama", attention_bias=True, mlp_bias=True))
    matrices = [math.prod(shape) for shape in spec.layer_tensors(1).values() if len(shape) == 2]
    assert (len(matrices), sum(matrices)) == (7, spec.prunable_weights(1))


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window"])
def test_the_dense_model_is_read_from_a_pruned_one_s_config(variation: str) -> None:
    dense = micro_config(**VARIATIONS[variation])
    per_layer = {**dense, "model_type": f"seap_{dense['model_type']}", "per_layer_config": PER_LAYER}
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 80}
    smaller = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    plain = {**dense, **smaller, "pruned_from": sizes}
    if dense["model_type"] == "llama":  # where a switch gives the compensation's bias a place
        plain |= {"attention_bias": True, "pruned_from": {**sizes, "attention_bias": False}}
    for pruned in (per_layer, plain):
        assert model_spec(dense_config(pruned)) == model_spec(dense) != model_spec(pruned)
    assert dense_config(dense) == dense


GEMMA_4 = VARIATIONS["gemma4-all"]


@pytest.mark.parametrize(
    ("base", "values", "says"),
    [
        ({}, {"hidden_act": "mish"}, "mish"),
        ({}, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        *(({}, {"hidden_size": value}, "hidden_size") for value in (-1, 0, 1.5, "96", True, None)),
        *(({}, {key: -1}, key) for key in ("vocab_size", "head_dim", "num_key_value_heads")),
        *(({}, {"rms_norm_eps": value}, "'rms_norm_eps' must be") for value in (-1, 0.0, math.nan, "small", True)),
        ({}, {"num_key_value_heads": 4}, "not a multiple"),
        ({"model_type": "gpt2"}, {"head_dim": 24}, "heads of 24 channels are not as wide as the hidden size"),
        *(({"model_type": "granite"}, {"logits_scaling": value}, "logits_scaling") for value in (0.0, "much", True)),
        ({"model_type": "gemma2"}, {"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
        (GEMMA_4, {"num_kv_shared_layers": 3}, "shares the cache of none"),
        (GEMMA_4, {"hidden_size_per_layer_input": 0}, "without inputs of layers"),
        (GEMMA_4, {"vocab_size_per_layer_input": 95}, "another number of tokens"),
        (GEMMA_4, {"use_bidirectional_attention": "all"}, "bidirectional"),
        (GEMMA_4, {"rope_parameters": {"rope_theta": 1e4}}, "one rotation for each kind"),
        (GEMMA_4, {"per_layer_config": {"1": {"head_dim": 24}, "2": {"head_dim": 32}}}, "heads of several sizes"),
        (WRAPPED, {"text_config": None}, "text_config"),
        *((WRAPPED, {"text_config": {"model_type": name}}, name) for name in ("llama", "x")),
    ],
)
def test_what_cannot_be_or_is_not_supported_is_refused_by_name(
    base: dict[str, Any], values: dict[str, Any], says: str
) -> None:
    config = base if base is WRAPPED else micro_config(**{"model_type": "llama", **base})
    with pytest.raises(InputError, match=says):
        model_spec({**config, **values})
