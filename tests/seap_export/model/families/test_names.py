"""Names of the plain form."""

from __future__ import annotations

import pytest

from seap_export.model.families import names


def test_a_layer_s_tensor_is_named_with_its_index_and_an_outer_one_without() -> None:
    assert names.weight("q_proj", 11) == "model.layers.11.self_attn.q_proj.weight"
    assert names.bias("down_proj", 0) == "model.layers.0.mlp.down_proj.bias"
    assert names.tensor("down_proj", 0) == "model.layers.0.mlp.down_proj"
    assert names.tensor("input_layernorm", 3) == "model.layers.3.input_layernorm.weight"
    assert names.tensor("k_norm", 3) == "model.layers.3.self_attn.k_norm.weight"
    assert names.tensor("norm") == "model.norm.weight"


@pytest.mark.parametrize(
    ("name", "layer"),
    [("model.layers.12.mlp.up_proj.bias", 12), ("model.norm.weight", None), ("lm_head.weight", None)],
)
def test_a_name_says_which_layer_it_belongs_to(name: str, layer: int | None) -> None:
    assert names.layer_of(name) == layer
