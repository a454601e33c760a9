"""Families are found by name, and what is not supported is refused by name."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from importlib import resources

import pytest
from support.variations import FAMILIES

from seap_export.errors import InputError
from seap_export.model.families import family_of_gguf, family_of_model_type, is_pruned
from seap_export.model.families.parts import Block, RotaryRules, Window


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


def test_projections_share_switches_as_in_transformers() -> None:
    attention = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
    llama, qwen2, qwen3 = (family_of_model_type(name) for name in ("llama", "qwen2", "qwen3"))
    assert llama.switched_with("o_proj") == qwen3.switched_with("o_proj") == attention
    assert llama.switched_with("down_proj") == frozenset(llama.projections) - attention
    assert qwen2.switched_with("q_proj") == {"q_proj"}
    assert [family.can_have_bias("o_proj") for family in (llama, qwen2, qwen3)] == [True, False, True]
    with pytest.raises(ValueError, match="down_proj has no bias in Qwen3ForCausalLM"):
        qwen3.switched_with("down_proj")


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("seap_nothing", "use one that docs/families.md"),
        (None, "use one that docs/families.md"),
        ("deepseek_v3", "mixture-of-experts"),
        ("seap_xglm", "positions added"),
    ],
)
def test_a_family_that_is_not_supported_is_refused_with_the_reason(model_type: str | None, says: str) -> None:
    with pytest.raises(InputError, match=f"'{model_type}' is not supported.*{says}"):
        family_of_model_type(model_type)


def test_no_family_is_both_supported_and_refused_and_none_is_refused_twice() -> None:
    table = tomllib.loads((resources.files("seap_export.model.families") / "refused.toml").read_text("utf-8"))
    refused = [model_type for types in table.values() for model_type in types]
    assert len({*refused, *FAMILIES}) == len(refused) + len(FAMILIES)


def test_an_unknown_gguf_architecture_is_refused_with_its_name_and_the_supported_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt2'.*gemma3.*llama.*qwen3"):
        family_of_gguf("gpt2")


@pytest.mark.parametrize(("changed", "says"), [({"up_proj": "GATE"}, "one name"), ({"o_proj": None}, "o_proj")])
def test_a_family_needs_a_name_of_its_own_for_each_tensor(changed: dict[str, str | None], says: str) -> None:
    family = family_of_model_type("llama")
    names = {**family.names, **{key: value and family.names["gate_proj"] for key, value in changed.items()}}
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(family, names={key: name for key, name in names.items() if name})


def test_a_pruned_model_is_of_its_dense_model_s_family() -> None:
    assert family_of_model_type("seap_qwen2") is family_of_model_type("qwen2")
    assert is_pruned({"model_type": "seap_qwen2"})
    assert is_pruned({"model_type": "qwen2", "pruned_from": {"intermediate_size": 80}})
    assert not is_pruned({"model_type": "qwen2"})
