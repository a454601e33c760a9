"""Families are found by name, and what is not supported is refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Callable
from importlib import resources

import pytest
from support.models import skip_unless_loaded
from support.product import PROJECTIONS, families
from support.variations import FAMILIES, micro_config

from seap_export.errors import InputError
from seap_export.model.families import family_of_gguf, family_of_model_type, is_pruned, wrapper_of_model_type
from seap_export.model.families.parts import Block, RotaryRules, Window


def test_the_supported_families_are_those_of_the_micro_models() -> None:
    assert tuple(sorted(family.model_type for family in families())) == FAMILIES


@pytest.mark.parametrize("model_type", ["nothing", "seap_nothing", "", None])
def test_an_unknown_family_is_refused_with_its_name_and_the_page_of_the_supported_ones(model_type: str | None) -> None:
    with pytest.raises(InputError, match=f"'{model_type}' is not supported; use one that docs/families.md"):
        family_of_model_type(model_type)


@pytest.mark.parametrize(
    ("model_type", "part"),
    [
        ("deepseek_v3", "mixture-of-experts"),
        ("mamba2", "state-space"),
        ("kimi_linear", "linear attention"),
        ("gemma3n_text", "caches shared"),
        ("mllama", "cross attention"),
        ("bitnet", "norm over all heads"),
        ("xglm", "positions added"),
        ("seap_xglm", "positions added"),
    ],
)
def test_a_model_of_transformers_that_is_not_supported_is_refused_with_the_reason(model_type: str, part: str) -> None:
    with pytest.raises(InputError, match=f"'{model_type}' is not supported: .*{part}"):
        family_of_model_type(model_type)


def test_no_family_is_both_supported_and_refused_and_none_is_refused_twice() -> None:
    table = tomllib.loads((resources.files("seap_export.model.families") / "refused.toml").read_text("utf-8"))
    refused = [model_type for types in table.values() for model_type in types]
    assert len(refused) == len(set(refused))
    assert not set(refused) & set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_of_its_dense_model_s_family(family: str) -> None:
    assert family_of_model_type(f"seap_{family}") is family_of_model_type(family)
    assert family_of_model_type(family).model_type == family


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_gguf_architecture_names_its_family(architecture: str) -> None:
    assert family_of_gguf(architecture).model_type == architecture


def test_an_unknown_gguf_architecture_is_refused_with_its_name_and_the_supported_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt2'.*gemma3.*llama.*qwen3"):
        family_of_gguf("gpt2")


@pytest.mark.parametrize(("attention", "mlp"), list(itertools.product((False, True), repeat=2)))
def test_llama_s_biases_follow_their_own_switch(attention: bool, mlp: bool) -> None:
    family = family_of_model_type("llama")
    config = {"attention_bias": attention, "mlp_bias": mlp}
    for projection in family.projections:
        of_mlp = projection in ("gate_proj", "up_proj", "down_proj")
        assert family.has_bias(projection, config) is (mlp if of_mlp else attention)


def test_a_bias_whose_switch_is_absent_is_off() -> None:
    assert not any(family_of_model_type("llama").has_bias(projection, {}) for projection in PROJECTIONS)


def test_qwen2_s_biases_need_no_switch_and_leave_o_proj_out() -> None:
    family = family_of_model_type("qwen2")
    biased = [p for p in PROJECTIONS if family.has_bias(p, {"attention_bias": False, "mlp_bias": True})]
    assert biased == ["q_proj", "k_proj", "v_proj"]


@pytest.mark.parametrize(
    "part",
    [
        lambda: Window(layers="some"),  # type: ignore[arg-type]
        lambda: RotaryRules(layers="some"),  # type: ignore[arg-type]
        lambda: Block(qk_norm="sometimes"),  # type: ignore[arg-type]
    ],
    ids=["window", "rotation", "norm of heads"],
)
def test_what_a_description_cannot_mean_is_refused(part: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="some"):
        part()


def test_a_family_in_which_two_tensors_have_one_name_cannot_be_described() -> None:
    family = family_of_model_type("llama")
    names = {**family.names, "up_proj": family.names["gate_proj"]}
    with pytest.raises(ValueError, match="one name"):
        dataclasses.replace(family, names=names)


def test_fused_projections_stand_for_their_parts() -> None:
    assert family_of_model_type("phi3").fused == ("qkv_proj", "gate_up_proj")
    assert family_of_model_type("granitemoehybrid").fused == ("gate_up_proj", "mamba_in_proj", "experts_gate_up_proj")
    assert family_of_model_type("llama").fused == ()


def test_stored_names_and_modules_are_those_of_the_family() -> None:
    family = family_of_model_type("granitemoehybrid")
    assert (
        family.stored("down_proj", 11) == family.module("down_proj", 11) == "model.layers.11.shared_mlp.output_linear"
    )
    assert family.stored("input_layernorm", 3) == "model.layers.3.input_layernorm.weight"
    assert family.module("input_layernorm", 3) == "model.layers.3.input_layernorm"
    assert (family.stored("norm"), family.module("lm_head")) == ("model.norm.weight", "lm_head")


def test_a_wrapper_is_known_by_its_type() -> None:
    wrapper = wrapper_of_model_type("gemma3")
    assert (wrapper,) == family_of_model_type("gemma3_text").wrappers
    assert wrapper_of_model_type("gemma3_text") is wrapper_of_model_type(None) is None


def test_a_family_without_a_tensor_name_cannot_be_described() -> None:
    family = family_of_model_type("llama")
    names = {key: value for key, value in family.names.items() if key != "o_proj"}
    with pytest.raises(ValueError, match="o_proj"):
        dataclasses.replace(family, names=names)


def test_projections_share_switches_as_in_transformers() -> None:
    attention = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
    llama, qwen2, qwen3 = (family_of_model_type(name) for name in ("llama", "qwen2", "qwen3"))
    assert llama.switched_with("o_proj") == qwen3.switched_with("o_proj") == attention
    assert llama.switched_with("down_proj") == frozenset(llama.projections) - attention
    assert qwen2.switched_with("q_proj") == {"q_proj"}
    assert [family.can_have_bias("o_proj") for family in (llama, qwen2, qwen3)] == [True, False, True]
    with pytest.raises(ValueError, match="down_proj has no bias in Qwen3ForCausalLM"):
        qwen3.switched_with("down_proj")


def test_a_pruned_model_is_known_by_its_type_or_by_what_it_was_made_from() -> None:
    assert is_pruned({"model_type": "seap_qwen2"})
    assert is_pruned({"model_type": "qwen2", "pruned_from": {"intermediate_size": 80}})
    assert not is_pruned({"model_type": "qwen2"})
    assert not is_pruned({})


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_must_divide_the_hidden_size_where_transformers_5_wants_it(name: str) -> None:
    import transformers

    skip_unless_loaded(family_of_model_type(name))
    config = micro_config(model_type=name, num_attention_heads=5, num_key_value_heads=5)
    refused = False
    try:
        transformers.AutoConfig.for_model(**config)
    except Exception:  # of huggingface_hub, which has its own for each of its releases
        refused = True
    is_new = int(transformers.__version__.split(".")[0]) >= 5
    assert refused is (is_new and family_of_model_type(name).heads_divide_hidden_size)
