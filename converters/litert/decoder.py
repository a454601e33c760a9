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
from converters.program_decoder import ProgramDecoder
from seap_export.model.families import Attention, ModelSpec, QueryScaling, RopeSpec, names
from seap_export.model.families.names import QKV
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies

#: Tokens of the prompt's signatures, and of the cache at most: every step reads all of it, however short the text is.
_PREFILL, CONTEXT = (16, 128), 1024
#: Added to the scores of what a token does not see, as LiteRT-LM's mask has it.
HIDDEN = -0.7 * float(np.finfo(np.float32).max)


def cache_length(spec: ModelSpec) -> int:
    """The number of tokens that the model's cache holds."""
    return min(CONTEXT, spec.max_position_embeddings)


def decoder_weights(spec: ModelSpec, precision: str) -> list[Weight]:
    """How a model's tensors are stored: matrices in `precision`, fp32 or int8; vectors and positions in fp32."""
    positions, rounds = names.tensor("positions"), precision == "int8"
    return [
        Weight(name, shape, rounds and len(shape) == 2 and name != positions) for name, shape in spec.tensors().items()
    ]


def decoder_program(spec: ModelSpec, precision: str) -> Program:
    program = Program(decoder_weights(spec, precision))
    lengths = [length for length in _PREFILL if length <= cache_length(spec)]
    for key, tokens in [("decode", 1), *((f"prefill_{length}", length) for length in lengths)]:
        _Decoder(program.graph(key), spec, tokens).emit(with_logits=key == "decode")
    return program


class _Decoder(ProgramDecoder[Value]):
    """Emits the subgraph of a signature that takes `tokens` new tokens."""

    op = op

    def __init__(self, graph: Graph, spec: ModelSpec, tokens: int) -> None:
        super().__init__(spec, tokens)
        self._g, self._cache_length = graph, cache_length(spec)
        g = graph
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
        self._rotations: list[tuple[RopeSpec, tuple[Value, Value]]] = []
        self._masks: dict[int, Value] = {}

    def emit(self, *, with_logits: bool) -> None:
        """Emits all nodes; without logits, those that only they need are left out."""
        g = self._g
        stream = self._through_layers(self._embedded())
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

    def _attended(self, index: int, attention: Attention, x: Value, *kept: Value) -> tuple[Value, ...]:
        g, groups, size = self._g, attention.num_key_value_heads, attention.head_dim
        shared, tokens, length = attention.heads_per_group, self._tokens, self._cache_length
        query, key, value = (op.transpose(g, self._heads(index, attention, part, x), (0, 2, 1, 3)) for part in QKV)
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
        return op.reshape(g, op.transpose(g, attended, (0, 2, 1, 3)), (1, tokens, attention.channels)), *kept

    def _angles(self, rope: RopeSpec, size: int) -> tuple[Value, Value]:
        known = next((tables for one, tables in self._rotations if one == rope), None)
        if known is None:
            known = self._tables(rope, size)
            self._rotations.append((rope, known))
        return known

    def _tables(self, rope: RopeSpec, size: int) -> tuple[Value, Value]:
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
        """The factor on the queries of each new token, which depends on its position, [N, 1]."""
        g, one = self._g, op.constant(self._g, 1.0)
        blocks = g.node("DIV", [self._column, op.constant(g, scaling.context)], self._column.shape, "DivOptions")
        number = op.add(g, op.elementwise(g, "FLOOR", blocks), one)
        return op.add(g, op.scaled(g, op.elementwise(g, "LOG", number), scaling.beta), one)

    def _seen(self, window: int | None) -> Value:
        """The mask that is added to a layer's scores, with `HIDDEN` also where positions lie outside its window."""
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
