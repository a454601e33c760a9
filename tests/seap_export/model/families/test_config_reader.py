"""Every key of config.json is read, harmless, or refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.transformers_keys import keys_of_transformers
from support.variations import FAMILIES, micro_config

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type, model_spec
from seap_export.model.families.config_reader import ConfigReader
from seap_export.model.families.files import common_keys, transformers_keys


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_key_that_only_code_of_the_model_may_read_is_refused_by_name(model_type: str) -> None:
    config = micro_config(model_type=model_type, clipped_qkv=8.0, auto_map={"AutoModelForCausalLM": "code.Model"})
    with pytest.raises(InputError, match=rf"'clipped_qkv' is not known for {model_type}"):
        model_spec(config)


@pytest.mark.parametrize("key", ["clipped_qkv", "mergekit_version", "lora_r", "peft_config", "bf16", "tags"])
def test_a_key_that_no_model_of_transformers_reads_changes_nothing(key: str) -> None:
    assert model_spec(micro_config(model_type="llama", **{key: 8})) == model_spec(micro_config(model_type="llama"))


@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("qwen3", "query_pre_attn_scalar"),
        ("qwen3", "hidden_activation"),
        ("qwen3", "rope_local_base_freq"),
        ("qwen3", "sliding_window_pattern"),
        ("llama", "residual_multiplier"),
        ("llama", "attn_logit_softcapping"),
        ("llama", "no_rope_layers"),
        ("llama", "rope_local_base_freq"),
        ("granite", "shared_intermediate_size"),
    ],
)
def test_a_key_that_only_another_family_reads_is_refused_by_name(model_type: str, key: str) -> None:
    with pytest.raises(InputError, match=f"'{key}'"):
        model_spec(micro_config(model_type=model_type, **{key: 1}))


@pytest.mark.release
def test_the_list_has_what_this_release_of_transformers_reads() -> None:
    """If not, `support.transformers_keys` adds it."""
    assert keys_of_transformers() - transformers_keys() == set()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_harmless_keys_change_nothing(model_type: str) -> None:
    plain = micro_config(model_type=model_type)
    harmless = {*common_keys()[0], *family_of_model_type(model_type).harmless, "_any_key_of_a_loader"} - plain.keys()
    assert model_spec({**dict.fromkeys(harmless, 7), **plain}) == model_spec(plain)


@pytest.mark.parametrize(
    ("model_type", "key", "value", "part"),
    [
        ("llama", "is_encoder_decoder", True, "an encoder"),
        ("llama", "add_cross_attention", True, "cross attention"),
        ("llama", "is_causal", False, "bidirectional attention"),
        ("llama", "rope_interleaved", True, "interleaved rotation"),
        ("gemma3_text", "use_bidirectional_attention", True, "bidirectional attention"),
        ("gemma2", "use_bidirectional_attention", "all", "bidirectional attention"),
        ("granitemoehybrid", "layers_block_type", ["moe"] * 3, "another layer"),
        ("granitemoehybrid", "time_step_limit", [0.001, 0.1], "a limit of time steps"),
        ("granitemoehybrid", "normalization_function", "layernorm", "another norm"),
        ("hunyuan_v1_dense", "num_experts", 16, "mixture-of-experts layers"),
        ("hunyuan_v1_dense", "use_cla", True, "caches shared by layers"),
        ("hunyuan_v1_dense", "use_mla", True, "latent attention"),
        ("phi3", "lm_head_bias", True, "a bias of the LM head"),
        ("gemma2", "sliding_window_pattern", 3, "another pattern of windows"),
        ("qwen2", "use_mrope", True, "multimodal rotation"),
        ("mistral", "layer_types", ["full_attention", "sliding_attention", "full_attention"], "window in some layers"),
    ],
)
def test_a_part_that_is_not_supported_is_refused_by_its_key_and_name(
    model_type: str, key: str, value: object, part: str
) -> None:
    with pytest.raises(InputError, match=f"'{key}'.*{part}"):
        model_spec(micro_config(model_type=model_type, **{key: value}))


def test_what_is_required_holds_for_the_class_s_default_too() -> None:
    """granitemoehybrid has state-space layers unless its config says otherwise."""
    config = micro_config(model_type="granitemoehybrid")
    del config["layer_types"]
    with pytest.raises(InputError, match="layer_types"):
        model_spec(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_required_is_met_by_null_and_by_the_required_value(model_type: str) -> None:
    family = family_of_model_type(model_type)
    assert not set(family.requires) & {*family.harmless, *common_keys()[0]}
    for key, requirement in {**common_keys()[1], **family.requires}.items():
        value = requirement.value[0] if isinstance(requirement.value, tuple) else requirement.value
        usual = micro_config(model_type=model_type).get(key)
        value = [value] * 3 if isinstance(usual, list) or key in ("layer_types", "layers_block_type") else value
        model_spec(micro_config(model_type=model_type, **{key: value}))
        if key not in family.defaults:
            model_spec(micro_config(model_type=model_type, **{key: None}))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_key_of_a_description_is_read_and_harmless_at_once(model_type: str) -> None:
    family = family_of_model_type(model_type)
    switches = {switch for switch in family.biases.values() if isinstance(switch, str)}
    formulas = {text.split()[0] for text in vars(family.block).values() if isinstance(text, str)}
    read = {*family.keys.values(), *switches, *formulas, *family.defaults}
    assert not read & {*family.harmless, *common_keys()[0]}


def reader_of(**values: Any) -> ConfigReader:
    return ConfigReader(family_of_model_type("llama"), values)


def test_a_formula_is_a_key_or_a_power_of_one() -> None:
    reader = reader_of(size=16, none=None)
    assert reader.formula("size") == 16.0
    assert reader.formula("size ** -0.5") == 0.25
    assert reader.formula(None) is reader.formula("none ** 2") is reader.formula("missing") is None
    with pytest.raises(ValueError, match="not a formula"):
        reader.formula("size + 1")


def test_a_key_has_the_family_s_own_name() -> None:
    reader = ConfigReader(family_of_model_type("gemma2"), {"hidden_activation": "gelu_new", "hidden_act": "silu"})
    assert reader.get("hidden_act") == "gelu_new"


def test_an_absent_key_has_the_family_s_default() -> None:
    family = dataclasses.replace(family_of_model_type("llama"), defaults={"rms_norm_eps": 0.5})
    assert ConfigReader(family, {}).number("rms_norm_eps") == 0.5
    assert ConfigReader(family, {"rms_norm_eps": 0.1}).number("rms_norm_eps") == 0.1
    assert ConfigReader(family, {}).given("rms_norm_eps") is None
