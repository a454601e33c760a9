"""The decoder as LiteRT-LM runs it: `decode` for a token, and `prefill_N` for N of them, over one cache.

Inputs, as its executor knows them: `tokens` int32 [1, N], `input_pos` int32 [N], `mask` float32 [1, 1, N, C], which is
added to scores, and for each layer `kv_cache_k_I` and `kv_cache_v_I`, float32 [1, KV heads, C, head size]. The caches
come back with the new tokens; `decode` also gives `logits` float32 [1, 1, vocabulary].

Source: https://github.com/google-ai-edge/LiteRT-LM, runtime/executor/litert_compiled_model_executor_utils.cc.
"""

from __future__ import annotations

import numpy as np

from converters.litert import operators as op
from converters.litert.program import Graph, Program, Value, Weight
from seap_export.families import Attention, Mlp, ModelSpec, QueryScaling, RopeSpec, Sublayer, names
from seap_export.families.names import QKV, Projection
from seap_export.layers.sublayers.rotary import attention_factor, inverse_frequencies, pair_swap

__all__ = ["CONTEXT", "HIDDEN", "cache_length", "decoder_program", "decoder_weights"]

#: Tokens of the prompt's signatures, and of the cache at most: every step reads all of it, however short the text is.
_PREFILL, CONTEXT = (16, 128), 1024
#: Added to the scores of what a token does not see, as LiteRT-LM's mask has it.
HIDDEN = -0.7 * float(np.finfo(np.float32).max)


def cache_length(spec: ModelSpec) -> int:
    """The tokens that the cache holds."""
    return min(CONTEXT, spec.max_position_embeddings)


def decoder_weights(spec: ModelSpec, precision: str) -> list[Weight]:
    """The tensors of a model, of which matrices but for the table of positions are `precision`, fp32 or int8."""
    positions, rounds = names.tensor("positions"), precision == "int8"
    return [
        Weight(name, shape, rounds and len(shape) == 2 and name != positions) for name, shape in spec.tensors().items()
    ]


def decoder_program(spec: ModelSpec, precision: str) -> Program:
    """The program of a model, with the weights of `decoder_weights`."""
    program = Program(decoder_weights(spec, precision))
    lengths = [length for length in _PREFILL if length <= cache_length(spec)]
    for key, tokens in [("decode", 1), *((f"prefill_{length}", length) for length in lengths)]:
        _Decoder(program.graph(key), spec, tokens).emit(with_logits=key == "decode")
    return program


class _Decoder:
    """Emits one subgraph."""

    def __init__(self, graph: Graph, spec: ModelSpec, tokens: int) -> None:
        self._g, self._spec, self._tokens, self._cache_length = graph, spec, tokens, cache_length(spec)
        g = self._g
        self._ids = g.input("tokens", (1, tokens), "int32")
        self._positions = g.input("input_pos", (tokens,), "int32")
        self._mask = g.input("mask", (1, 1, tokens, self._cache_length))
        self._caches: dict[str, Value] = {}
        for index, layer in enumerate(spec.layers):
            for attention in (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Attention)):
                shape = (1, attention.num_key_value_heads, self._cache_length, attention.head_dim)
                for part in "kv":
                    name = f"kv_cache_{part}_{index}"
                    self._caches[name] = g.input(name, shape)
        first = g.node("SLICE", [self._positions, _ints(g, 0), _ints(g, 1)], (1,), "SliceOptions", "int32")
        zeros = [_ints(g, 0, 0), first, _ints(g, 0)]
        self._start = g.node("CONCATENATION", zeros, (4,), "ConcatenationOptions", "int32")
        column = g.node("CAST", [self._positions], (tokens,), "CastOptions")
        self._column = op.reshape(g, column, (tokens, 1))
        self._rotations: list[tuple[RopeSpec, Value, Value]] = []
        self._masks: dict[int, Value] = {}

    def emit(self, *, with_logits: bool) -> None:
        """Emits all nodes; without logits, those that only they need are left out."""
        g, spec = self._g, self._spec
        read = stream = self._embedded()
        for index, layer in enumerate(spec.layers):
            for sublayer in layer.sublayers:
                read = read if sublayer.beside else stream
                stream = op.add(g, stream, self._added(index, sublayer, read))
        for name, cache in self._caches.items():
            g.output(name, cache)
        if with_logits:
            g.output("logits", self._logits(stream))
        g.leave_out_unused()

    def _embedded(self) -> Value:
        g, spec = self._g, self._spec
        ids = op.reshape(g, self._ids, (self._tokens,))
        embedded = op.lookup(g, ids, g.weight(names.tensor("embed_tokens")))
        embedded = op.scaled(g, embedded, spec.block.embedding_multiplier)
        if spec.position_offset is not None:
            rows = self._positions
            if spec.position_offset:
                rows = g.node("ADD", [rows, _ints(g, spec.position_offset)], rows.shape, "AddOptions", "int32")
            embedded = op.add(g, embedded, op.lookup(g, rows, g.weight(names.tensor("positions"))))
        return op.reshape(g, embedded, (1, self._tokens, spec.hidden_size))

    def _logits(self, stream: Value) -> Value:
        g, block = self._g, self._spec.block
        normed = op.scaled(g, self._norm("norm", None, stream), block.logits_multiplier)
        table = names.tensor("embed_tokens" if self._spec.tie_word_embeddings else "lm_head")
        bias = g.weight(names.tensor("lm_head_bias")) if self._spec.lm_head_bias else None
        return op.capped(g, op.linear(g, normed, g.weight(table), bias), block.logits_softcap)

    def _added(self, index: int, sublayer: Sublayer, read: Value) -> Value:
        """What a sublayer adds to the stream that it reads."""
        g, before, after = self._g, sublayer.norm_before, sublayer.norm_after
        x = read if before is None else self._norm(before, index, read)
        if isinstance(sublayer, Attention):
            channels = self._attended(index, sublayer, x)
        else:
            assert isinstance(sublayer, Mlp)
            *gates, up = (self._projected(index, sublayer, name, x) for name in sublayer.readers)
            channels = op.activated(g, sublayer.activation, gates[0] if gates else up)
            channels = op.multiply(g, channels, up) if gates else channels
        product = self._projected(index, sublayer, sublayer.output, channels)
        written = product if after is None else self._norm(after, index, product)
        return op.scaled(g, written, sublayer.multiplier)

    def _projected(self, index: int, sublayer: Sublayer, projection: Projection, x: Value) -> Value:
        g = self._g
        bias = g.weight(names.bias(projection, index)) if projection in sublayer.biases else None
        return op.linear(g, x, g.weight(names.weight(projection, index)), bias)

    def _norm(self, norm: str, index: int | None, x: Value) -> Value:
        spec = self._spec.norm
        gain, *bias = (self._g.weight(names.tensor(part, index)) for part in self._spec.norm_parts(norm))
        return op.norm(self._g, x, spec.epsilon, gain, *bias, centred=spec.is_centred)

    def _attended(self, index: int, attention: Attention, x: Value) -> Value:
        """What the query heads attend to, [1, N, channels]."""
        g, groups, size = self._g, attention.num_key_value_heads, attention.head_dim
        shared, tokens, length = attention.heads_per_group, self._tokens, self._cache_length
        query = self._heads(index, attention, "q_proj", x, attention.num_attention_heads)
        key, value = (self._heads(index, attention, part, x, groups) for part in QKV[1:])
        for part, new in (("k", key), ("v", value)):
            name = f"kv_cache_{part}_{index}"
            self._caches[name] = op.update(g, self._caches[name], new, self._start)
        keys, values = (self._caches[f"kv_cache_{part}_{index}"] for part in "kv")
        query = op.scaled(g, query, attention.scale)
        if attention.query_scaling is not None:
            query = op.multiply(g, query, self._query_factors(attention.query_scaling))
        query = op.reshape(g, query, (1, groups, shared * tokens, size))
        scores = op.capped(g, op.batch_matmul(g, query, keys, transposed=True), attention.softcap)
        scores = op.reshape(g, scores, (groups, shared, tokens, length))
        scores = op.softmax(g, op.add(g, scores, self._seen(attention.sliding_window)))
        scores = op.reshape(g, scores, (1, groups, shared * tokens, length))
        attended = op.batch_matmul(g, scores, values, transposed=False)
        attended = op.reshape(g, attended, (1, attention.num_attention_heads, tokens, size))
        return op.reshape(g, op.transpose(g, attended, (0, 2, 1, 3)), (1, tokens, attention.channels))

    def _heads(self, index: int, attention: Attention, projection: Projection, x: Value, heads: int) -> Value:
        """Queries, keys or values of the new tokens, [1, heads, N, head size], normalised and rotated."""
        g, norm, is_value = self._g, projection.replace("proj", "norm"), projection == "v_proj"
        rope, normed = (None, None) if is_value else (attention.rope, attention.qk_norm)
        split = (1, self._tokens, heads, attention.head_dim)
        made = self._projected(index, attention, projection, x)
        if normed == "over_all_heads":
            made = self._head_norm(norm, index, made)
        made = op.reshape(g, made, split)
        if normed == "before_rotation":
            made = self._head_norm(norm, index, made)
        made = made if rope is None else self._rotated(made, rope)
        if normed == "after_rotation":
            made = self._head_norm(norm, index, made)
        return op.transpose(g, made, (0, 2, 1, 3))

    def _head_norm(self, norm: str, index: int, x: Value) -> Value:
        return op.norm(self._g, x, self._spec.norm.epsilon, self._g.weight(names.tensor(norm, index)))

    def _rotated(self, x: Value, rope: RopeSpec) -> Value:
        """x cos + swap(x) sin, where a constant matrix swaps the channels of pairs, one of them with its sign."""
        g = self._g
        known = next((rotation for rotation in self._rotations if rotation[0] == rope), None)
        if known is None:
            known = rope, *self._tables(rope, x.shape[-1])
            self._rotations.append(known)
        _, cosines, sines = known
        swapped = op.linear(g, x, g.constant(pair_swap(rope, x.shape[-1]).numpy()))
        return op.add(g, op.multiply(g, x, cosines), op.multiply(g, swapped, sines))

    def _tables(self, rope: RopeSpec, size: int) -> tuple[Value, Value]:
        """Cosines and sines of the new tokens' angles, [N, 1, head size]; channels that do not rotate have angle 0."""
        g, half, factor = self._g, inverse_frequencies(rope).numpy(), attention_factor(rope)
        still = np.zeros(size - rope.dim, np.float32)
        frequencies = np.concatenate([np.repeat(half, 2) if rope.interleaved else np.tile(half, 2), still])
        angles = op.multiply(g, op.reshape(g, self._column, (self._tokens, 1, 1)), g.constant(frequencies))
        tables = [op.elementwise(g, operator, angles) for operator in ("COS", "SIN")]
        if factor != 1.0:
            factors = np.concatenate([np.full(rope.dim, factor, np.float32), still + 1])
            tables = [op.multiply(g, table, g.constant(factors)) for table in tables]
        return tables[0], tables[1]

    def _query_factors(self, scaling: QueryScaling) -> Value:
        """The factor of each token's queries, [N, 1]."""
        g, one = self._g, op.constant(self._g, 1.0)
        blocks = g.node("DIV", [self._column, op.constant(g, scaling.context)], self._column.shape, "DivOptions")
        number = op.add(g, op.elementwise(g, "FLOOR", blocks), one)
        return op.add(g, op.scaled(g, op.elementwise(g, "LOG", number), scaling.beta), one)

    def _seen(self, window: int | None) -> Value:
        """The mask of a layer, which adds `HIDDEN` to what its window leaves out."""
        g = self._g
        if window is None or window >= self._cache_length:
            return self._mask
        if window not in self._masks:
            positions = g.constant(np.arange(self._cache_length, dtype=np.float32))
            behind = op.subtract(g, op.add(g, self._column, op.constant(g, 1.0 - window)), positions)
            # 1 where a position is before the first one that is seen, 0 elsewhere
            out = op.bounded(g, "MINIMUM", op.elementwise(g, "RELU", behind), 1.0)
            mask = op.add(g, self._mask, op.reshape(g, op.scaled(g, out, HIDDEN), self._mask.shape))
            self._masks[window] = op.bounded(g, "MAXIMUM", mask, HIDDEN)
        return self._masks[window]


def _ints(g: Graph, *numbers: int) -> Value:
    return g.constant(np.array(numbers, np.int32))
