"""The shapes read from a config.json are those of the transformers model, and what cannot be pruned is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.models import meta_model, skip_unless_loaded
from support.product import ExpertModules, StoredForm
from support.variations import FAMILIES, VARIATIONS, micro_config
from transformers import AutoConfig, PreTrainedModel

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import (
    Attention,
    Mlp,
    ModelSpec,
    dense_config,
    family_of_model_type,
    language_config,
    model_spec,
)
from seap_export.model.families.names import NORMS

PER_LAYER = {
    "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 7, "o_proj_bias": True},
    "2": {"intermediate_size": 33, "down_proj_bias": True},
}


def shapes_in_transformers(model: PreTrainedModel, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of all tensors of a checkpoint, a tied LM head left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = ExpertModules(spec, shapes).stored(shapes)
    stored = spec.family.stored("lm_head")
    weight = shapes.pop("lm_head.weight" if "lm_head.weight" in shapes else stored)  # what GPT-NeoX's module is called
    return shapes if model.config.tie_word_embeddings else {**shapes, stored: weight}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_tensors_are_those_of_the_transformers_model(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    spec = model_spec(config)
    assert StoredForm(spec).shapes == shapes_in_transformers(meta_model(config), spec)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_tensors_of_a_pruned_model_are_those_of_the_transformers_model(family: str) -> None:
    config = micro_config(model_type=f"seap_{family}", per_layer_config=PER_LAYER)
    spec = model_spec(config)
    assert spec.tensors() == shapes_in_transformers(meta_model(config), spec)


def test_per_layer_config_overrides_only_what_it_names() -> None:
    first, second, third = model_spec(micro_config(model_type="seap_llama", per_layer_config=PER_LAYER)).layers
    dense = model_spec(micro_config(model_type="llama")).layers[0]
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 7}
    assert first == dense.changed(**sizes, biases={"o_proj"})
    assert second == dense
    assert third == dense.changed(intermediate_size=33, biases={"down_proj"})


def test_per_layer_config_has_the_family_s_own_names_of_sizes() -> None:
    per_layer = {"1": {"shared_intermediate_size": 7}}
    spec = model_spec(micro_config(model_type="seap_granitemoehybrid", per_layer_config=per_layer))
    assert [mlp.intermediate_size for mlp in spec.all(Mlp)] == [80, 7, 80]


def test_per_layer_config_may_have_whole_numbers_as_keys() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={int(key): PER_LAYER[key] for key in PER_LAYER})
    assert model_spec(config) == model_spec({**config, "per_layer_config": PER_LAYER})


def test_sizes_of_global_layers_are_read_as_published_and_as_transformers_saves_them() -> None:
    published = micro_config(**VARIATIONS["gemma4_unified"], num_global_key_value_heads=2)
    saved = {key: value for key, value in published.items() if not key.startswith(("global", "num_global"))}
    full = {"head_dim": 32, "num_key_value_heads": 2}
    spec = model_spec({**saved, "per_layer_config": {"01": full, "02": full}})
    assert spec == model_spec(published)
    assert [(one.head_dim, one.num_key_value_heads) for one in spec.all(Attention)] == [(16, 3), (32, 2), (32, 2)]


def test_the_tokens_of_inputs_of_layers_do_not_matter_where_there_are_none() -> None:
    config = micro_config(**VARIATIONS["gemma4"])
    assert model_spec({**config, "vocab_size_per_layer_input": 262144}) == model_spec(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_kv_shared_layers": 2}, "shares the cache of none"),
        ({"num_kv_shared_layers": 3}, "shares the cache of none"),
        ({"hidden_size_per_layer_input": 0}, "without inputs of layers"),
        ({"vocab_size_per_layer_input": 95}, "another number of tokens"),
        ({"use_bidirectional_attention": "all"}, "bidirectional"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "one rotation for each kind"),
        ({"per_layer_config": {"1": {"head_dim": 24}, "2": {"head_dim": 32}}}, "heads of several sizes"),
    ],
)
def test_what_gemma_4_may_not_have_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_spec({**micro_config(**VARIATIONS["gemma4-all"]), **values})


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window", "qwen2", "qwen3"])
def test_the_dense_model_is_read_from_a_pruned_one_s_config(variation: str) -> None:
    dense = micro_config(**VARIATIONS[variation])
    per_layer = {**dense, "model_type": f"seap_{dense['model_type']}", "per_layer_config": PER_LAYER}
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 80}
    plain = {
        **dense,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
        "pruned_from": sizes,
    }
    if dense["model_type"] in ("llama", "qwen3"):  # where a switch gives the compensation's bias a place
        plain |= {"attention_bias": True, "pruned_from": {**sizes, "attention_bias": False}}
    for pruned in (per_layer, plain):
        assert model_spec(dense_config(pruned)) == model_spec(dense) != model_spec(pruned)
    assert dense_config(dense) == dense


def test_head_dim_is_the_dense_one_where_layers_have_fewer_heads() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={"0": {"num_attention_heads": 3}})
    assert model_spec(config).head_dim == 16


@pytest.mark.parametrize("model_type", ["biogpt", "opt", "gpt2"])
def test_heads_that_do_not_fill_the_hidden_size_are_refused_where_the_class_has_no_others(model_type: str) -> None:
    config = {**micro_config(model_type=model_type), "head_dim": 24}
    with pytest.raises(InputError, match="heads of 24 channels are not as wide as the hidden size"):
        model_spec(config)
    assert model_spec({**config, "model_type": f"seap_{model_type}"}).head_dim == 24


def test_an_absent_head_dim_is_the_hidden_size_over_the_heads() -> None:
    assert model_spec({**micro_config(model_type="llama"), "head_dim": None}).head_dim == 16


def test_absent_key_value_heads_are_as_many_as_query_heads() -> None:
    config = micro_config(model_type="llama")
    del config["num_key_value_heads"]
    assert {one.num_key_value_heads for one in model_spec(config).all(Attention)} == {6}


def test_a_config_gives_other_biases_than_the_compensation_to_no_layer() -> None:
    config = micro_config(model_type="seap_llama", per_layer_config={"1": {"q_proj_bias": True, "o_proj_bias": True}})
    assert model_spec(config).layers[1].biases == {"o_proj"}


def saved_by_transformers(config: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """The config as transformers writes it, with all its defaults; None: it cannot be read there."""
    try:
        AutoConfig.for_model(**config).save_pretrained(folder)
    except Exception:  # of any kind
        return None
    return read_json(folder / "config.json")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_absent_key_means_what_transformers_takes_it_for_or_is_refused(tmp_path: Path, model_type: str) -> None:
    """With the shape of a larger model, which some classes' defaults are made for."""
    skip_unless_loaded(family_of_model_type(model_type))
    sizes = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 96, "hidden_size": 3072}
    whole = micro_config(model_type=model_type, **sizes)
    readings = []
    for key in whole.keys() - {"model_type"}:
        config = {name: value for name, value in whole.items() if name != key}
        saved = saved_by_transformers(config, tmp_path)
        if saved is None:
            continue
        with suppress(InputError):
            readings.append((key, model_spec(config), saved))
    assert len(readings) > len(whole) // 2
    for key, spec, saved in readings:
        assert spec == model_spec(saved), key


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_defaults_of_a_description_are_those_of_the_class(model_type: str) -> None:
    skip_unless_loaded(family_of_model_type(model_type))
    defaults = AutoConfig.for_model(model_type)
    defaults.allow_global_per_layer_attribute_access = True
    for key, value in family_of_model_type(model_type).defaults.items():
        if getattr(defaults, key, None) is not None and key not in ("layer_types", "rope_parameters", "rope_scaling"):
            assert getattr(defaults, key) == (list(value) if isinstance(value, tuple) else value), key


SIZES = ("hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        *(("hidden_act", activation, activation) for activation in ("quick_gelu", "mish")),
        ("quantization_config", {"quant_method": "gptq"}, "gptq"),
        *((key, value, key) for key in (*SIZES, "head_dim", "num_key_value_heads") for value in (-1, 1.5, "96", True)),
        *((key, value, key) for key in SIZES for value in (None, 0)),
        *(("rms_norm_eps", value, "'rms_norm_eps' must be") for value in (-1, 0.0, math.nan, math.inf, "small", True)),
        ("num_key_value_heads", 4, "not a multiple"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(key: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        model_spec(micro_config(model_type="llama", **{key: value}))


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


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "text_config"), ([1], "text_config"), ({"model_type": "llama"}, "llama"), ({"model_type": "x"}, "'x'")],
)
def test_a_wrapper_of_another_language_model_is_refused(text: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        model_spec({**WRAPPED, "text_config": text})


def test_a_wrapper_of_two_families_holds_what_it_says() -> None:
    inner = {key: value for key, value in micro_config(model_type="mistral").items() if key != "model_type"}
    assert model_spec({"model_type": "mistral3", "text_config": inner}).family.model_type == "mistral"
    inner = micro_config(model_type="ministral3")
    assert model_spec({"model_type": "mistral3", "text_config": inner}).family.model_type == "ministral3"


BLOCKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"model_type": "llama"}, {"activation": "silu", "scale": 0.25, "qk_norm": None}),
    ({"model_type": "qwen3"}, {"qk_norm": "before_rotation"}),
    ({"model_type": "hunyuan_v1_dense"}, {"qk_norm": "after_rotation"}),
    (
        VARIATIONS["gemma2-all"],
        {
            "activation": "gelu_tanh",
            "scale": 24**-0.5,
            "embedding_multiplier": 96**0.5,
            "softcap": 2.0,
            "logits_softcap": 8.0,
        },
    ),
    (
        VARIATIONS["granite-all"],
        {
            "scale": 0.2,
            "embedding_multiplier": 3.0,
            "multiplier": 0.4,
            "logits_multiplier": 0.5,
            "logits_softcap": None,
        },
    ),
]


@pytest.mark.parametrize(("values", "block"), BLOCKS)
def test_a_block_is_what_the_formulas_of_its_family_say(values: dict[str, Any], block: dict[str, Any]) -> None:
    spec = model_spec(micro_config(**values))
    values = vars(spec.block) | vars(spec.first(Attention)) | vars(spec.first(Mlp))
    assert {name: values[name] for name in block} == block


@pytest.mark.parametrize(
    ("model_type", "norms"),
    [
        ("llama", {"input_layernorm", "post_attention_layernorm"}),
        ("exaone4", {"post_self_attn_layernorm", "post_mlp_layernorm"}),
        ("glm4", set(NORMS[:4])),
    ],
)
def test_a_block_has_the_norms_that_its_family_names(model_type: str, norms: set[str]) -> None:
    assert model_spec(micro_config(model_type=model_type)).norms == norms


@pytest.mark.parametrize("value", [0.0, -1.0, "much", True, [1.0]])
@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("granite", "residual_multiplier"),
        ("granite", "logits_scaling"),
        ("gemma2", "query_pre_attn_scalar"),
        ("gemma2", "final_logit_softcapping"),
    ],
)
def test_a_value_that_a_formula_cannot_take_is_refused_by_name(model_type: str, key: str, value: object) -> None:
    with pytest.raises(InputError, match=key):
        model_spec(micro_config(model_type=model_type, **{key: value}))
