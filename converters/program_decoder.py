"""The part of a decoder's graph that LiteRT and ExecuTorch share, emitted with the operators of either format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from seap_export.model.families import Attention, Mlp, ModelSpec, RopeSpec, Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.sublayers.rotary import pair_swap

V = TypeVar("V")


class ProgramDecoder(ABC, Generic[V]):
    """Emits the graph of a decoder of attention and MLPs by the operators of a format (`op`), whose values are `V`."""

    op: Any
    _g: Any

    def __init__(self, spec: ModelSpec, tokens: int) -> None:
        self._spec, self._tokens = spec, tokens

    @abstractmethod
    def _angles(self, rope: RopeSpec, size: int) -> tuple[V, V]:
        """Cosines and sines of the new tokens' angles, [N, 1, head size]; channels that do not rotate have angle 0."""

    @abstractmethod
    def _attended(self, index: int, attention: Attention, x: V, *kept: V) -> tuple[V, ...]:
        """Emits attention; returns what its output projection reads, [1, N, channels], and `kept` for later nodes."""

    def _through_layers(self, stream: V) -> V:
        read = stream
        for index, layer in enumerate(self._spec.layers):
            for sublayer in layer.sublayers:
                read = read if sublayer.beside else stream
                x = read if sublayer.norm_before is None else self._norm(sublayer.norm_before, index, read)
                if isinstance(sublayer, Attention):
                    channels, stream, read = self._attended(index, sublayer, x, stream, read)
                else:
                    assert isinstance(sublayer, Mlp)
                    channels = self._neurons(index, sublayer, x)
                stream = self.op.add(self._g, stream, self._written(index, sublayer, channels))
        return stream

    def _logits(self, last: V) -> V:
        block = self._spec.block
        normed = self.op.scaled(self._g, self._norm("norm", None, last), block.logits_multiplier)
        table = names.tensor("embed_tokens" if self._spec.tie_word_embeddings else "lm_head")
        logits = self._g.linear(normed, table, names.tensor("lm_head_bias") if self._spec.lm_head_bias else None)
        return self.op.capped(self._g, logits, block.logits_softcap)

    def _neurons(self, index: int, sublayer: Mlp, x: V) -> V:
        *gates, up = (self._projected(index, sublayer, name, x) for name in sublayer.readers)
        channels: V = self.op.activated(self._g, sublayer.activation, gates[0] if gates else up)
        return self.op.multiply(self._g, channels, up) if gates else channels

    def _written(self, index: int, sublayer: Sublayer, channels: V) -> V:
        """Emits a sublayer's output projection, norm and multiplier; returns what is added to the residual stream."""
        product, after = self._projected(index, sublayer, sublayer.output, channels), sublayer.norm_after
        written = product if after is None else self._norm(after, index, product)
        return self.op.scaled(self._g, written, sublayer.multiplier)

    def _projected(self, index: int, sublayer: Sublayer, projection: Projection, x: V) -> V:
        bias = names.bias(projection, index) if projection in sublayer.biases else None
        return self._g.linear(x, names.weight(projection, index), bias)

    def _norm(self, norm: str, index: int | None, x: V) -> V:
        spec = self._spec.norm
        gain, *bias = (self._g.weight(names.tensor(part, index)) for part in self._spec.norm_parts(norm))
        return self.op.norm(self._g, x, spec.epsilon, gain, *bias, centred=spec.is_centred)

    def _heads(self, index: int, attention: Attention, projection: Projection, x: V) -> V:
        """Queries, keys or values of the new tokens, [1, N, heads, head size], normalised and rotated."""
        rope, normed = (None, None) if projection == "v_proj" else (attention.rope, attention.qk_norm)
        size = attention.head_dim
        heads = attention.num_attention_heads if projection == "q_proj" else attention.num_key_value_heads
        made = self._projected(index, attention, projection, x)
        if normed == "over_all_heads":
            made = self._head_norm(projection, index, made)
        made = self.op.reshape(self._g, made, (1, self._tokens, heads, size))
        if normed == "before_rotation":
            made = self._head_norm(projection, index, made)
        made = made if rope is None else self._rotated(made, rope, size)
        return self._head_norm(projection, index, made) if normed == "after_rotation" else made

    def _head_norm(self, projection: Projection, index: int, x: V) -> V:
        gain = self._g.weight(names.tensor(projection.replace("proj", "norm"), index))
        return self.op.norm(self._g, x, self._spec.norm.epsilon, gain)

    def _rotated(self, x: V, rope: RopeSpec, size: int) -> V:
        """x cos + swap(x) sin, where a constant matrix swaps the channels of pairs, one of them with its sign."""
        op, g, (cosines, sines) = self.op, self._g, self._angles(rope, size)
        swapped = g.linear(x, g.constant(pair_swap(rope, size).numpy()))
        return op.add(g, op.multiply(g, x, cosines), op.multiply(g, swapped, sines))
