"""Shapes, rotations and windows are read from a config.json as transformers reads them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.models import meta_model
from support.transformers_keys import keys_of_transformers
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.model.families import Attention, Experts, Mlp, RopeSpec, dense_config, language_config, model_spec
from seap_export.model.families.files import transformers_keys

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


def test_the_language_model_of_a_wrapper_is_read_like_one_of_its_own() -> None:
    text = {key: value for key, value in micro_config(model_type="gemma3_text").items() if key != "model_type"}
    wrapped = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    wrapped["mm_tokens_per_image"] = 4
    assert model_spec(wrapped) == model_spec(micro_config(model_type="gemma3_text"))
    inner = language_config({**wrapped, "tie_word_embeddings": True, "eos_token_id": [1, 106]})
    assert (inner["model_type"], inner["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert (inner["tie_word_embeddings"], inner["eos_token_id"]) == (True, [1, 106])
    assert not inner.keys() & {"vision_config", "mm_tokens_per_image", "text_config"}


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


def ropes_of(**values: Any) -> list[RopeSpec | None]:
    return [one.rope for one in model_spec({**micro_config(**values), **values}).all(Attention)]


def test_rotations_are_read_in_other_spellings_too() -> None:
    phi3, gemma3 = VARIATIONS["phi3-all"], VARIATIONS["gemma3-all"]
    for name in ("longrope", "su", "yarn"):
        ropes = ropes_of(**{**phi3, "rope_scaling": {**phi3["rope_scaling"], "type": name}})
        assert ropes == ropes_of(**phi3)
        assert {(rope.rope_type, rope.switches_at) for rope in ropes if rope} == {("longrope", 16)}
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    both = {key: value for key, value in gemma3.items() if key != "rope_scaling"} | {"rope_parameters": nested}
    assert ropes_of(**both, rope_local_base_freq=7.0) == ropes_of(**gemma3)
    for model_type in ("hunyuan_v1_dense", "llama"):  # without a fixed alpha it changes nothing
        dynamic = {"model_type": model_type, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
        assert ropes_of(**dynamic) == ropes_of(model_type=model_type)


MISTRAL = {"model_type": "mistral", "max_position_embeddings": 32768}
GEMMA_3 = {"model_type": "gemma3_text"}
SMOLLM_3, GRANITE_4 = {"model_type": "smollm3"}, {"model_type": "granitemoehybrid"}
KINDS = ["full_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("values", "rotates", "windows"),
    [
        ({**SMOLLM_3, "no_rope_layers": [1, 0, 1]}, [True, False, True], [None] * 3),
        ({**SMOLLM_3, "no_rope_layers": None, "no_rope_layer_interval": 3}, [True, True, False], [None] * 3),
        ({**SMOLLM_3, "use_sliding_window": False, "sliding_window": 5}, [True, False, True], [None] * 3),
        (VARIATIONS["exaone4-window"], [True, False, True], [5, None, 5]),
        (GRANITE_4, [False] * 3, [None] * 3),
        ({**GRANITE_4, "position_embedding_type": "rope"}, [True] * 3, [None] * 3),
        ({"model_type": "llama", "sliding_window": 5}, [True] * 3, [None] * 3),
        ({"model_type": "mistral", "sliding_window": 5}, [True] * 3, [5] * 3),
        ({"model_type": "qwen2", "sliding_window": 5}, [True] * 3, [None] * 3),
        (VARIATIONS["qwen2-window"], [True] * 3, [None, 5, 5]),
        ({"model_type": "gemma2", "layer_types": None}, [True] * 3, [5, None, 5]),
        ({**GEMMA_3, "sliding_window_pattern": 3}, [True] * 3, [5, 5, None]),
        # which take precedence over a pattern
        (
            {"model_type": "gemma3_text", "layer_types": KINDS, "sliding_window_pattern": 2},
            [True] * 3,
            [None, None, 5],
        ),
        # what transformers takes an absent one for
        (MISTRAL, [True] * 3, [AutoConfig.for_model(**micro_config(**MISTRAL)).sliding_window] * 3),
    ],
)
def test_a_layer_rotates_and_attends_within_a_window_as_the_config_says(
    values: dict[str, Any], rotates: list[bool], windows: list[int | None]
) -> None:
    layers = list(model_spec(micro_config(**values)).all(Attention))
    assert [one.rope is not None for one in layers] == rotates
    assert [one.sliding_window for one in layers] == windows


@pytest.mark.full
def test_the_list_has_what_this_release_of_transformers_reads() -> None:
    """If not, `support.transformers_keys` adds it."""
    assert keys_of_transformers() - transformers_keys() == set()
