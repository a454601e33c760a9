"""A layer that no model can have is refused, and weights are counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.chosen import OF_EACH_FAMILY
from support.models import meta_model
from support.variations import VARIATIONS, micro_config

from seap_export.errors import InputError
from seap_export.model.families import Attention, Convolution, Experts, LayerInput, model_spec


@pytest.mark.parametrize("biases", [{"q_proj"}, {"q_proj", "v_proj", "o_proj"}])
def test_queries_keys_and_values_have_biases_together(biases: set[Any]) -> None:
    with pytest.raises(InputError, match="must have a bias"):
        Attention(num_attention_heads=6, num_key_value_heads=3, head_dim=16, scale=0.25, biases=frozenset(biases))


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        (Convolution, {"conv_dim": 8, "kernel_size": 1}, "fewer than 2 tokens"),
        (LayerInput, {"layer": 0, "hidden_size_per_layer_input": 0}, "at least one input"),
    ],
)
def test_a_sublayer_that_computes_nothing_is_refused(kind: type[Any], sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**sizes)


def test_experts_compute_a_token_with_the_router_and_those_that_it_chooses() -> None:
    experts = Experts(num_experts=8, moe_intermediate_size=16, experts_per_token=2)
    assert experts.active_weights(32) == 8 * 32 + 2 * 3 * 16 * 32


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
def test_parameters_are_counted_as_torch_counts_them(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    model = meta_model(config)
    # Of the choice of experts; GPT-BigCode calls its mask a bias, too.
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("bias") and buffer.dim() == 1]
    assert model_spec(config).num_parameters() == sum(tensor.numel() for tensor in [*model.parameters(), *biases])


def test_prunable_weights_are_those_of_the_seven_projections() -> None:
    spec = model_spec(micro_config(model_type="llama", attention_bias=True, mlp_bias=True))
    matrices = [shape for shape in spec.layer_tensors(1).values() if len(shape) == 2]
    assert len(matrices) == 7
    assert spec.prunable_weights(1) == sum(map(math.prod, matrices))
