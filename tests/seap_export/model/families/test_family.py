"""Families are found by name, and what is not supported is refused by name."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest
from support.variations import FAMILIES

from seap_export.errors import InputError
from seap_export.model.families import family_of_gguf, family_of_model_type, is_pruned


def test_projections_share_switches_as_in_transformers() -> None:
    attention = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
    llama, qwen2, qwen3 = (family_of_model_type(name) for name in ("llama", "qwen2", "qwen3"))
    assert llama.switched_with("o_proj") == qwen3.switched_with("o_proj") == attention
    assert llama.switched_with("down_proj") == frozenset(llama.projections) - attention
    assert qwen2.switched_with("q_proj") == {"q_proj"}
    assert [family.can_have_bias("o_proj") for family in (llama, qwen2, qwen3)] == [True, False, True]
    with pytest.raises(ValueError, match="down_proj has no bias in Qwen3ForCausalLM"):
        qwen3.switched_with("down_proj")


def test_a_pruned_model_is_of_its_dense_model_s_family() -> None:
    assert family_of_model_type("seap_qwen2") is family_of_model_type("qwen2")
    assert is_pruned({"model_type": "seap_qwen2"})
    assert is_pruned({"model_type": "qwen2", "pruned_from": {"intermediate_size": 80}})
    assert not is_pruned({"model_type": "qwen2"})


def test_a_family_that_is_not_supported_is_refused_with_the_reason() -> None:
    for model_type, says in (
        ("seap_nothing", "use one that docs/families.md"),
        (None, "use one that docs/families.md"),
        ("deepseek_v3", "mixture-of-experts"),
        ("seap_xglm", "positions added"),
    ):
        with pytest.raises(InputError, match=f"'{model_type}' is not supported.*{says}"):
            family_of_model_type(model_type)
    with pytest.raises(InputError, match=r"'gpt2'.*gemma3.*llama.*qwen3"):
        family_of_gguf("gpt2")
    table = tomllib.loads((resources.files("seap_export.model.families") / "refused.toml").read_text("utf-8"))
    refused = [model_type for types in table.values() for model_type in types]
    assert len({*refused, *FAMILIES}) == len(refused) + len(FAMILIES)  # none is both, and none refused twice
