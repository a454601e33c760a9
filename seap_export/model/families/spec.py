"""`ModelSpec`: what a dense or pruned model computes, and the names and shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from seap_export.model.families import names
from seap_export.model.families.family import Family
from seap_export.model.families.layer_spec import Kind, LayerSpec
from seap_export.model.families.names import Norm, Projection
from seap_export.model.families.rope import RopeSpec
from seap_export.model.families.sublayers import V_NORM, Attention, Sublayer


@dataclass(frozen=True)
class NormSpec:
    """The norms of the residual stream: gain * (x - mean) / sqrt(variance + epsilon) + bias, or RMS norms.

    Attributes:
        epsilon: The number that is added to the variance, or to the mean square, in the norms of heads, too.
        is_centred: Whether the mean is subtracted, as in LayerNorm; otherwise it counts as 0, as in RMS norms.
    """

    epsilon: float
    is_centred: bool = False
    has_bias: bool = False


@dataclass(frozen=True)
class BlockSpec:
    """Factors on embeddings and logits.

    Attributes:
        embedding_multiplier: Factor on embeddings.
        logits_multiplier: Factor on logits.
        logits_softcap: c in c tanh(logit / c); None: none.
    """

    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A whole decoder model; `layers` holds one `LayerSpec` per layer. Tensors have the names of the plain form.

    `position_offset` is the row of position 0 in the table that is added to embeddings; None: there is no such table.
    `layer_inputs` is the number of inputs that each layer has of a token besides its embedding.

    Hidden states carry more than the residual stream. Behind it come the inputs of all layers, the keys and values
    that later layers attend to, and the output of a sublayer that is held until the next one has written. So all of
    these are stored with the stream, and gradients pass through them.
    """

    family: Family
    block: BlockSpec
    vocab_size: int
    hidden_size: int
    norm: NormSpec
    max_position_embeddings: int
    tie_word_embeddings: bool
    layers: tuple[LayerSpec, ...]
    lm_head_bias: bool = False
    position_offset: int | None = None
    layer_inputs: int = 0

    @cached_property
    def inputs_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the inputs of each layer."""
        starts = {index: self.hidden_size + index * self.layer_inputs for index in range(len(self.layers))}
        return {index: slice(start, start + self.layer_inputs) for index, start in starts.items()}

    @cached_property
    def cached_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the keys and then the values of each layer that lends them."""
        columns, start = {}, self.hidden_size + len(self.layers) * self.layer_inputs
        for index, layer in enumerate(self.layers):
            for sublayer in layer.sublayers:
                if isinstance(sublayer, Attention) and sublayer.lends_cache:
                    columns[index] = slice(start, start + 2 * sublayer.num_key_value_heads * sublayer.head_dim)
                    start = columns[index].stop
        return columns

    @cached_property
    def held(self) -> slice:
        """The columns of hidden states that hold a sublayer's output; see `LayerSpec.is_held`."""
        last = self.hidden_size + len(self.layers) * self.layer_inputs
        start = max((columns.stop for columns in self.cached_of.values()), default=last)
        is_needed = any(sublayer.norm_of_sum is not None for sublayer in self.sublayers)
        return slice(start, start + self.hidden_size * is_needed)

    @property
    def width(self) -> int:
        """Number of columns of the hidden states, including those behind the residual stream."""
        return self.held.stop

    @cached_property
    def head_dim(self) -> int:
        """Size of a head in the first attention; others may have another."""
        return self.first(Attention).head_dim

    @property
    def sublayers(self) -> Iterator[Sublayer]:
        return (sublayer for layer in self.layers for sublayer in layer.sublayers)

    @cached_property
    def has_beside(self) -> bool:
        """Whether a sublayer reads the stream that the one before it read."""
        return any(sublayer.beside for sublayer in self.sublayers)

    def all(self, kind: type[Kind]) -> Iterator[Kind]:
        """The sublayers of a kind, from the first layer on."""
        return (sublayer for sublayer in self.sublayers if isinstance(sublayer, kind))

    def first(self, kind: type[Kind]) -> Kind:
        return next(self.all(kind))

    @cached_property
    def ropes(self) -> list[RopeSpec]:
        """The rotations, each once, from the first layer on."""
        ropes: list[RopeSpec] = []  # they have no hash
        for attention in self.all(Attention):
            if attention.rope is not None and attention.rope not in ropes:
                ropes.append(attention.rope)
        return ropes

    @cached_property
    def norms(self) -> frozenset[Norm]:
        """The norms of the residual stream that layers have."""
        return frozenset(norm for sublayer in self.sublayers for norm in sublayer.norms)

    @property
    def channels(self) -> list[int]:
        """Numbers of inputs of output projections that are fitted together: one for each of a sublayer's `blocks`."""
        return [sublayer.channels // sublayer.blocks for sublayer in self.sublayers for _ in range(sublayer.blocks)]

    def projection_shape(self, projection: Projection, layer: int) -> tuple[int, int]:
        """The (out, in) shape of a projection's weight."""
        for sublayer in self.layers[layer].sublayers:
            if projection in sublayer.projections:
                return sublayer.shapes(self.hidden_size)[projection]
        raise KeyError(projection)

    def layer_tensors(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a layer, in the order of use."""
        shapes: dict[str, tuple[int, ...]] = {}
        for sublayer in self.layers[layer].sublayers:
            shapes |= self._outer_tensors_of(sublayer, layer)
        for sublayer in self.layers[layer].sublayers:
            shapes |= self._inner_tensors_of(sublayer, layer)
        return shapes

    def sublayer_tensors(self, layer: int, output: Projection) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that one sublayer computes with."""
        sublayer = self.layers[layer].named(output)
        return self._outer_tensors_of(sublayer, layer) | self._inner_tensors_of(sublayer, layer)

    def _inner_tensors_of(self, sublayer: Sublayer, layer: int) -> dict[str, tuple[int, ...]]:
        norms = {norm: (width,) for norm, width in sublayer.inner_norms().items()}
        return {names.tensor(name, layer): shape for name, shape in {**sublayer.inner_tensors(), **norms}.items()}

    def _outer_tensors_of(self, sublayer: Sublayer, layer: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of a sublayer's projections and of the norms around them."""
        shapes: dict[str, tuple[int, ...]] = {}
        if sublayer.norm_before is not None:
            shapes |= self._norm_tensors(sublayer.norm_before, layer)
        for projection, shape in sublayer.shapes(self.hidden_size).items():
            shapes[names.weight(projection, layer)] = shape
            if projection in sublayer.biases:
                shapes[names.bias(projection, layer)] = shape[:1]
        for norm in sublayer.norms_behind:
            shapes |= self._norm_tensors(norm, layer)
        if sublayer.scales_stream:
            shapes[names.tensor(names.STREAM_SCALE, layer)] = (1,)
        return shapes

    def _norm_tensors(self, norm: str, layer: int | None = None) -> dict[str, tuple[int, ...]]:
        return {names.tensor(part, layer): (self.hidden_size,) for part in self.norm_parts(norm)}

    def norm_parts(self, norm: str) -> tuple[str, ...]:
        """The names of a norm of the stream, and of its bias if it has one, as in `names.tensor`."""
        return (norm, f"{norm}_bias") if self.norm.has_bias else (norm,)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """The tables of tokens and, where there is one, of positions, and what inputs of layers are made of."""
        positions = () if self.position_offset is None else ("positions",)
        return ("embed_tokens", *positions, *(names.INPUT_TABLES if self.layer_inputs else ()))

    @property
    def token_tables(self) -> tuple[str, ...]:
        return tuple(name for name in self.embedding_names if name in ("embed_tokens", "layer_inputs"))

    def row_width(self, table: str) -> int:
        """The number of columns of one of `token_tables`, or of the LM head."""
        return self.outer_tensors()[names.tensor(table)][1]

    @property
    def outer_names(self) -> tuple[str, ...]:
        """The tensors outside the layers: embedding, final norm and, unless tied, LM head, and their biases."""
        head = () if self.tie_word_embeddings else ("lm_head",)
        bias = ("lm_head_bias",) if self.lm_head_bias else ()
        return (*self.embedding_names, *self.norm_parts("norm"), *head, *bias)

    def outer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the tensors outside the layers."""
        table = (self.vocab_size, self.hidden_size)
        norm: tuple[int, ...] = (self.hidden_size,)
        shapes = {"embed_tokens": table, "norm": norm, "norm_bias": norm, "lm_head": table, "lm_head_bias": table[:1]}
        inputs = len(self.layers) * self.layer_inputs
        of_inputs = ((self.vocab_size, inputs), (inputs, self.hidden_size), (self.layer_inputs,))
        shapes |= dict(zip(names.INPUT_TABLES, of_inputs, strict=True))
        shapes["positions"] = (self.max_position_embeddings + (self.position_offset or 0), self.hidden_size)
        return {names.tensor(name): shapes[name] for name in self.outer_names}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the model."""
        shapes = self.outer_tensors()
        for layer in range(len(self.layers)):
            shapes |= self.layer_tensors(layer)
        return shapes

    def num_parameters(self) -> int:
        """Number of parameters; a tied LM head counts once, numbers that scale the stream and missing gains do not."""
        parameters = sum(math.prod(shape) for shape in self.tensors().values())
        gains = 1 + sum(len(sublayer.norms) for sublayer in self.sublayers)
        parameters -= sum(one.inner_norms().get(V_NORM, 0) + one.scales_stream for one in self.sublayers)
        return parameters - (0 if self.family.block.norm_weight else gains * self.hidden_size)

    def prunable_weights(self, layer: int) -> int:
        """Number of weights in the projections of a layer's sublayers, without norms and biases."""
        return sum(self.sublayer_weights(layer).values())

    def sublayer_weights(self, layer: int) -> dict[Projection, int]:
        """Number of weights in the projections of each sublayer, by its output projection."""
        return {sublayer.output: sublayer.weights(self.hidden_size) for sublayer in self.layers[layer].sublayers}

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> ModelSpec:
        """A copy of this model with other layer shapes."""
        return replace(self, layers=layers)

    def with_tokens(self, vocab_size: int) -> ModelSpec:
        """A copy of this model with another number of tokens."""
        return replace(self, vocab_size=vocab_size)
