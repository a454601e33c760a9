"""What a dense or pruned model computes and the shapes of its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from seap_export.errors import InputError
from seap_export.families import names
from seap_export.families.family import Family
from seap_export.families.names import NORMS, PROJECTIONS, QKV, Norm, Projection
from seap_export.families.rope import QueryScaling, RopeSpec

__all__ = ["Activation", "BlockSpec", "LayerSpec", "ModelSpec"]

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class BlockSpec:
    """What the layers of a model compute, whatever their shape.

    x += m N2(attention(N1(x))), then x += m N4(mlp(N3(x))), where N are RMS norms or nothing and m the residual
    multiplier.

    Attributes:
        norms: The norms there are.
        qk_norm: Whether each query and key head is normalised before or after it is rotated; None: not at all.
        activation: Of the gate.
        attention_scale: Factor on attention scores.
        attention_softcap: c in c tanh(score / c); None: none.
        query_scaling: Factor on queries by position.
        residual_multiplier: Factor on the outputs of attention and MLP.
        embedding_multiplier: Factor on embeddings.
        logits_multiplier: Factor on logits.
        logits_softcap: c in c tanh(logit / c); None: none.
    """

    norms: frozenset[Norm]
    qk_norm: Literal["before_rotation", "after_rotation"] | None
    activation: Activation
    attention_scale: float
    attention_softcap: float | None = None
    query_scaling: QueryScaling | None = None
    residual_multiplier: float = 1.0
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float | None = None

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise InputError(f"activation '{self.activation}' is not supported; use a model with silu or gelu_tanh")


@dataclass(frozen=True)
class LayerSpec:
    """The shape of one decoder layer.

    Attributes:
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key/value heads (KV groups).
        intermediate_size: Number of MLP neurons.
        biases: The projections that have a bias.
        sliding_window: Number of positions a query attends to, including its own; None: all earlier ones.
        rope: How queries and keys are rotated; None: not at all.
    """

    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    biases: frozenset[Projection]
    sliding_window: int | None = None
    rope: RopeSpec | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if min(self.num_attention_heads, self.num_key_value_heads, self.intermediate_size) < 1:
            raise InputError("a layer needs at least one query head, one key/value head and one neuron")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"config.json: {self.num_attention_heads} query heads are not a multiple of "
                f"{self.num_key_value_heads} key/value heads; correct it, or download the model again"
            )
        if len(self.biases & set(QKV)) not in (0, len(QKV)):
            raise InputError(
                f"config.json: either all of {', '.join(QKV)} must have a bias, or none; "
                "correct it, or download the model again"
            )

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key/value head."""
        return self.num_attention_heads // self.num_key_value_heads


@dataclass(frozen=True)
class ModelSpec:
    """A whole decoder model; `layers` holds one `LayerSpec` per layer. Tensors have the names of the plain form."""

    family: Family
    block: BlockSpec
    vocab_size: int
    hidden_size: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    layers: tuple[LayerSpec, ...]

    def projection_shape(self, projection: Projection, layer: int) -> tuple[int, int]:
        """The (out, in) shape of a projection's weight."""
        spec = self.layers[layer]
        queries = spec.num_attention_heads * self.head_dim
        keys = spec.num_key_value_heads * self.head_dim
        shapes: dict[Projection, tuple[int, int]] = {
            "q_proj": (queries, self.hidden_size),
            "k_proj": (keys, self.hidden_size),
            "v_proj": (keys, self.hidden_size),
            "o_proj": (self.hidden_size, queries),
            "gate_proj": (spec.intermediate_size, self.hidden_size),
            "up_proj": (spec.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, spec.intermediate_size),
        }
        return shapes[projection]

    def layer_tensors(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a layer, in the order of use."""
        spec = self.layers[layer]
        shapes: dict[str, tuple[int, ...]] = {}
        before: dict[str, tuple[Norm, ...]] = {
            "q_proj": NORMS[:1], "gate_proj": NORMS[1:3],
        }  # fmt: skip
        for projection in PROJECTIONS:
            for norm in before.get(projection, ()):
                if norm in self.block.norms:
                    shapes[names.tensor(norm, layer)] = (self.hidden_size,)
            out, into = self.projection_shape(projection, layer)
            shapes[names.weight(projection, layer)] = (out, into)
            if projection in spec.biases:
                shapes[names.bias(projection, layer)] = (out,)
        if NORMS[3] in self.block.norms:
            shapes[names.tensor(NORMS[3], layer)] = (self.hidden_size,)
        if self.block.qk_norm is not None:
            shapes[names.tensor("q_norm", layer)] = (self.head_dim,)
            shapes[names.tensor("k_norm", layer)] = (self.head_dim,)
        return shapes

    @property
    def outer_names(self) -> tuple[str, ...]:
        """The tensors outside the layers: embedding, final norm and, unless tied, LM head."""
        return ("embed_tokens", "norm") if self.tie_word_embeddings else ("embed_tokens", "norm", "lm_head")

    def outer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the tensors outside the layers."""
        table = (self.vocab_size, self.hidden_size)
        shapes = {"embed_tokens": table, "norm": (self.hidden_size,), "lm_head": table}
        return {names.tensor(name): shapes[name] for name in self.outer_names}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the model."""
        shapes = self.outer_tensors()
        for layer in range(len(self.layers)):
            shapes |= self.layer_tensors(layer)
        return shapes

    def num_parameters(self) -> int:
        """Number of parameters; a tied LM head counts once."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def prunable_weights(self, layer: int) -> int:
        """Number of weights in a layer's attention and MLP projections, without norms and biases."""
        return sum(math.prod(self.projection_shape(projection, layer)) for projection in PROJECTIONS)

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> ModelSpec:
        """A copy of this model with other layer shapes."""
        return replace(self, layers=layers)

    def with_tokens(self, vocab_size: int) -> ModelSpec:
        """A copy of this model with another number of tokens."""
        return replace(self, vocab_size=vocab_size)
