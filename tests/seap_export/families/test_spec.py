"""A layer that no model can have is refused, and weights are counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.variations import micro_config

from seap_export.errors import InputError
from seap_export.families import Attention, model_spec


@pytest.mark.parametrize("biases", [{"q_proj"}, {"q_proj", "v_proj", "o_proj"}])
def test_queries_keys_and_values_have_biases_together(biases: set[Any]) -> None:
    with pytest.raises(InputError, match="must have a bias"):
        Attention(num_attention_heads=6, num_key_value_heads=3, head_dim=16, scale=0.25, biases=frozenset(biases))


def test_prunable_weights_are_those_of_the_seven_projections() -> None:
    spec = model_spec(micro_config(model_type="llama", attention_bias=True, mlp_bias=True))
    matrices = [shape for shape in spec.layer_tensors(1).values() if len(shape) == 2]
    assert len(matrices) == 7
    assert spec.prunable_weights(1) == sum(map(math.prod, matrices))
