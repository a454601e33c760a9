"""Families are found by name, and what is not supported is refused by name."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from micro import FAMILIES

from seap_export.errors import InputError
from seap_export.families import family_of_gguf, family_of_model_type, is_pruned, supported_families
from seap_export.families.names import PROJECTIONS


def test_the_supported_families_are_those_of_the_readme() -> None:
    assert supported_families() == FAMILIES


@pytest.mark.parametrize("model_type", ["gpt2", "seap_gpt2", "", None])
def test_an_unknown_family_is_refused_with_its_name_and_the_supported_ones(model_type: str | None) -> None:
    with pytest.raises(InputError, match="llama, mistral, qwen2, qwen3") as caught:
        family_of_model_type(model_type)
    assert f"'{model_type}'" in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_of_its_dense_model_s_family(family: str) -> None:
    assert family_of_model_type(f"seap_{family}") is family_of_model_type(family)
    assert family_of_model_type(family).model_type == family


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_gguf_architecture_names_its_family(architecture: str) -> None:
    assert family_of_gguf(architecture).model_type == architecture


def test_an_unknown_gguf_architecture_is_refused_with_its_name_and_the_supported_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt2'.*llama, qwen2, qwen3$"):
        family_of_gguf("gpt2")


def test_only_llama_s_rotary_rows_are_permuted_in_gguf() -> None:
    forms = {name: family_of_model_type(name).gguf for name in FAMILIES}
    assert [name for name, form in forms.items() if form and form.rotary_rows_permuted] == ["llama"]


def test_only_qwen3_normalises_queries_and_keys() -> None:
    assert [name for name in FAMILIES if family_of_model_type(name).has_qk_norm] == ["qwen3"]


def test_a_layer_s_tensor_is_named_with_its_index_and_an_outer_one_without() -> None:
    family = family_of_model_type("llama")
    assert family.weight("q_proj", 11) == "model.layers.11.self_attn.q_proj.weight"
    assert family.bias("down_proj", 0) == "model.layers.0.mlp.down_proj.bias"
    assert family.tensor("input_layernorm", 3) == "model.layers.3.input_layernorm.weight"
    assert family.tensor("norm") == "model.norm.weight"


@pytest.mark.parametrize(("attention", "mlp"), list(itertools.product((False, True), repeat=2)))
def test_llama_s_biases_follow_their_own_switch(attention: bool, mlp: bool) -> None:
    family = family_of_model_type("llama")
    config = {"attention_bias": attention, "mlp_bias": mlp}
    for projection in PROJECTIONS:
        of_mlp = projection in ("gate_proj", "up_proj", "down_proj")
        assert family.has_bias(projection, config) is (mlp if of_mlp else attention)


def test_a_bias_whose_switch_is_absent_is_off() -> None:
    assert not any(family_of_model_type("llama").has_bias(projection, {}) for projection in PROJECTIONS)


def test_qwen2_s_biases_need_no_switch_and_leave_o_proj_out() -> None:
    family = family_of_model_type("qwen2")
    biased = [p for p in PROJECTIONS if family.has_bias(p, {"attention_bias": False, "mlp_bias": True})]
    assert biased == ["q_proj", "k_proj", "v_proj"]


def test_a_family_with_an_unknown_window_rule_cannot_be_described() -> None:
    with pytest.raises(ValueError, match="sliding_window"):
        dataclasses.replace(family_of_model_type("llama"), sliding_window="sometimes")  # type: ignore[arg-type]


def test_a_family_without_a_tensor_name_cannot_be_described() -> None:
    family = family_of_model_type("llama")
    names = {key: value for key, value in family.names.items() if key != "o_proj"}
    with pytest.raises(ValueError, match="o_proj"):
        dataclasses.replace(family, names=names)


def test_projections_share_switches_as_in_transformers() -> None:
    attention = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
    llama, qwen2, qwen3 = (family_of_model_type(name) for name in ("llama", "qwen2", "qwen3"))
    assert llama.switched_with("o_proj") == qwen3.switched_with("o_proj") == attention
    assert llama.switched_with("down_proj") == frozenset(PROJECTIONS) - attention
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

    refused = False
    try:
        transformers.AutoConfig.for_model(name, hidden_size=96, num_attention_heads=5, head_dim=16)
    except Exception:  # of huggingface_hub, which has its own for each of its releases
        refused = True
    is_new = int(transformers.__version__.split(".")[0]) >= 5
    assert refused is (is_new and family_of_model_type(name).heads_divide_hidden_size)
