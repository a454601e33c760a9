"""Every key of config.json is read, harmless, or refused by name."""

from __future__ import annotations

import pytest
from support.transformers_keys import keys_of_transformers
from support.variations import micro_config

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type, model_spec
from seap_export.model.families.config_reader import ConfigReader
from seap_export.model.families.files import transformers_keys


@pytest.mark.full
def test_the_list_has_what_this_release_of_transformers_reads() -> None:
    """If not, `support.transformers_keys` adds it."""
    assert keys_of_transformers() - transformers_keys() == set()


@pytest.mark.parametrize("key", ["clipped_qkv", "peft_config", "bf16"])
def test_a_key_that_no_model_of_transformers_reads_changes_nothing_unless_the_model_has_code(key: str) -> None:
    assert model_spec(micro_config(model_type="llama", **{key: 8})) == model_spec(micro_config(model_type="llama"))
    with pytest.raises(InputError, match=rf"'{key}' is not known for llama"):
        model_spec(micro_config(model_type="llama", auto_map={"AutoModelForCausalLM": "code.Model"}, **{key: 8}))


@pytest.mark.parametrize(
    ("model_type", "key", "value", "part"),
    [
        ("qwen3", "query_pre_attn_scalar", 1, ""),  # which only another family reads
        ("llama", "no_rope_layers", 1, ""),
        ("granite", "shared_intermediate_size", 1, ""),
        ("llama", "is_causal", False, "bidirectional attention"),
        ("llama", "rope_interleaved", True, "interleaved rotation"),
        ("gemma2", "use_bidirectional_attention", "all", "bidirectional attention"),
        ("granitemoehybrid", "layers_block_type", ["moe"] * 3, "another layer"),
        ("granitemoehybrid", "layer_types", None, ""),  # it has state-space layers unless its config says otherwise
        ("hunyuan_v1_dense", "num_experts", 16, "mixture-of-experts layers"),
        ("phi3", "lm_head_bias", True, "a bias of the LM head"),
        ("gemma2", "sliding_window_pattern", 3, "another pattern of windows"),
        ("mistral", "layer_types", ["full_attention", "sliding_attention", "full_attention"], "window in some layers"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_key_and_name(
    model_type: str, key: str, value: object, part: str
) -> None:
    config = micro_config(model_type=model_type) | {key: value}
    config = {name: one for name, one in config.items() if one is not None}
    with pytest.raises(InputError, match=f"{key}.*{part}"):
        model_spec(config)


def test_a_formula_is_a_key_or_a_power_of_one() -> None:
    reader = ConfigReader(family_of_model_type("llama"), {"size": 16, "none": None})
    assert reader.formula("size") == 16.0
    assert reader.formula("size ** -0.5") == 0.25
    assert reader.formula(None) is reader.formula("none ** 2") is reader.formula("missing") is None
    with pytest.raises(ValueError, match="not a formula"):
        reader.formula("size + 1")
