"""What the parts of a layer cost: weights, multiply-adds per token, or bytes in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from seap_export.families import Attention, Mlp, ModelSpec

__all__ = ["BUDGETS", "Budget", "CostModel", "LayerShape", "layer_shape"]

Budget = Literal["weights", "macs", "bytes"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a dense layer that determine its costs.

    Attributes:
        attention: Heads, KV groups and the sliding window.
        mlp: Neurons.
        hidden_size: Width of the residual stream.
    """

    attention: Attention
    mlp: Mlp
    hidden_size: int

    @property
    def neuron_weights(self) -> int:
        """Prunable weights of one neuron, in all projections of the MLP."""
        return len(self.mlp.projections) * self.hidden_size

    @property
    def total_weights(self) -> int:
        """Prunable weights of the whole layer."""
        own = self.attention
        attention = self.attention_weights(own.num_attention_heads, own.num_key_value_heads)
        return attention + self.mlp.intermediate_size * self.neuron_weights

    def attention_weights(self, heads: int, kv_groups: int) -> int:
        """Prunable weights of some query heads (queries and output) and KV groups (keys and values)."""
        return 2 * self.hidden_size * self.attention.head_dim * (heads + kv_groups)

    def least_neurons(self, align: int) -> int:
        """The fewest neurons that may be kept: one multiple of `align`, or all of a narrower layer."""
        return min(align, self.mlp.intermediate_size)


def layer_shape(spec: ModelSpec, layer: int) -> LayerShape:
    """The shape of one layer of a model."""
    return LayerShape(spec.layers[layer][Attention], spec.layers[layer][Mlp], spec.hidden_size)


@dataclass(frozen=True)
class CostModel:
    """The cost of a layer, additive over its attention and its neurons; only ratios of costs are meaningful.

    Attributes:
        budget: `weights`: the weights of the attention and MLP projections. `macs`: multiply-adds per token, one for
            each weight and two per head channel for each position attended to (QK^T and its product with V).
            `bytes`: memory in units of one weight's bytes, the weights and the KV cache, with elements as wide.
        context: Positions in the cache; a layer with a sliding window sees no more than that.
    """

    budget: Budget = "weights"
    context: int = 1024

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget must be one of {BUDGETS}")
        if self.context < 1:
            raise ValueError("context must be positive")

    def attention(self, shape: LayerShape, heads: int, kv_groups: int) -> int:
        """Cost of some query heads and KV groups of a layer."""
        channels = {"weights": 0, "macs": heads, "bytes": kv_groups}[self.budget] * shape.attention.head_dim
        positions = min(self.context, shape.attention.sliding_window or self.context)
        return shape.attention_weights(heads, kv_groups) + 2 * channels * positions

    def neuron(self, shape: LayerShape) -> int:
        """Cost of one neuron: its weights, whatever the budget."""
        return shape.neuron_weights

    def dense(self, shape: LayerShape) -> int:
        """Cost of a whole layer."""
        own = shape.attention
        attention = self.attention(shape, own.num_attention_heads, own.num_key_value_heads)
        return attention + shape.mlp.intermediate_size * self.neuron(shape)

    def least(self, shape: LayerShape, align: int, *, all_heads: bool = False) -> int:
        """Cost of the smallest layer: one query head and KV group, or all, and one multiple of `align` neurons."""
        own = shape.attention
        heads = (own.num_attention_heads, own.num_key_value_heads) if all_heads else (1, 1)
        return self.attention(shape, *heads) + shape.least_neurons(align) * self.neuron(shape)
