"""The decoder as ExecuTorch's LLM runners call it: `forward`, with tokens int64 [1, N] and the position of the first
one, int64 [1], gives the logits of the last one, float32 [1, vocabulary].

The keys and values stay in the program. XNNPACK runs what lies between two attentions as one graph; attention itself
is a kernel of `executorch.extension.llm`, which reads as much of the cache as there is text.

Source: https://github.com/pytorch/executorch, extension/llm/custom_ops/op_sdpa.cpp and extension/llm/runner.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from converters.executorch import operators as op
from converters.executorch.graph import TOKENS, Graph, Shape, Value
from converters.executorch.program import Program
from converters.executorch.weights import GRID, Kind, Weight
from converters.program_decoder import ProgramDecoder
from seap_export.model.families import Attention, ModelSpec, RopeSpec, names
from seap_export.model.families.names import QKV
from seap_export.model.layers.sublayers.rotary import rotary_tables

#: Tokens of the cache at most: it takes its whole memory, however short the text is.
CONTEXT = 2048
#: The method of a program that returns the bits of its matrices, and what it returns for each precision.
PRECISION = "get_weight_bits"
BITS = {"fp32": 32, "int8": 8, "int4": 4}


def cache_length(spec: ModelSpec) -> int:
    """The number of tokens that the model's cache holds."""
    return min(CONTEXT, spec.max_position_embeddings)


def decoder_weights(spec: ModelSpec, precision: str) -> list[Weight]:
    """How a model's tensors are stored; with int4, embedding, LM head and rows that are not whole blocks are int8."""
    outer, positions = spec.outer_tensors(), names.tensor("positions")

    def kind(name: str, shape: Shape) -> Kind:
        if precision == "fp32" or len(shape) == 1 or name == positions:
            return "fp32"
        return "int4" if precision == "int4" and name not in outer and GRID.takes(shape[1]) else "int8"

    return [Weight(name, shape, kind(name, shape)) for name, shape in spec.tensors().items()]


def rotations(spec: ModelSpec) -> list[tuple[RopeSpec, int]]:
    """The distinct rotary embeddings of a model's attention, each with the head size that it is used with."""
    found: list[tuple[RopeSpec, int]] = []
    for attention in (sublayer for sublayer in spec.sublayers if isinstance(sublayer, Attention)):
        if attention.rope is not None and (attention.rope, attention.head_dim) not in found:
            found.append((attention.rope, attention.head_dim))
    return found


def decoder_program(spec: ModelSpec, precision: str, ends: Collection[int]) -> Program:
    """Builds the program of a model; `ends` are the ids of the tokens that end a text."""
    weights, tables = decoder_weights(spec, precision), [names.tensor(name) for name in spec.embedding_names]
    program = Program(weights, [weight.name for weight in weights if weight.name in tables or len(weight.shape) == 1])
    _Decoder(program, spec).emit()
    length = cache_length(spec)
    program.tell("get_eos_ids", *sorted(ends))
    program.tell("get_max_context_len", length)
    program.tell("get_max_seq_len", min(TOKENS, length))
    program.tell("get_vocab_size", spec.vocab_size)
    program.tell("use_kv_cache", 1)
    program.tell("enable_dynamic_shape", 1)
    program.tell(PRECISION, BITS[precision])
    return program


class _Decoder(ProgramDecoder[Value]):
    """Emits `forward`, the method of a program that computes logits."""

    op = op

    def __init__(self, program: Program, spec: ModelSpec) -> None:
        super().__init__(spec, TOKENS)
        self._p = p = program
        self._ids = p.input("tokens", (1, TOKENS), is_open=True)
        position = p.input("position", (1,), is_open=False)
        self._tables: list[tuple[RopeSpec, int, tuple[int, int]]] = []
        for rope, size in rotations(spec):
            self._tables.append((rope, size, self._whole_angles(rope, size)))
        first = p.tensor("first", (), "LONG")
        self._start, count, self._end = p.number(), p.number(), p.number()
        p.kernel("aten::select_copy", "int_out", position, p.scalar("Int", 0), p.scalar("Int", 0), first, first)
        p.kernel("aten::_local_scalar_dense", "", first, self._start)
        p.kernel("aten::sym_size", "int", self._ids, p.scalar("Int", 1), count)
        p.kernel("executorch_prim::add", "Scalar", self._start, count, self._end)
        self._slices = {table: self._slice(table, 1, size) for _, size, tables in self._tables for table in tables}
        self._streams = 0
        self._open()

    def _whole_angles(self, rope: RopeSpec, size: int) -> tuple[int, int]:
        """Cosines and sines of all positions, [C, 1, head size]; channels that do not rotate have angle 0."""
        made = []
        for half, still in zip(rotary_tables(rope, cache_length(self._spec)), (1.0, 0.0), strict=True):
            whole = half.repeat_interleave(2, 1) if rope.interleaved else half.tile(2)
            whole = torch.nn.functional.pad(whole, (0, size - rope.dim), value=still)
            made.append(self._p.table(whole[:, None].numpy()))
        return made[0], made[1]

    def _slice(self, table: int, *shape: int, offset: int = 0) -> int:
        """The rows of a table for the new tokens, [N, *shape]; that of position 0 is at `offset`."""
        p, start, end = self._p, self._start, self._end
        if offset:
            start, end = p.number(), p.number()
            for before, after in ((self._start, start), (self._end, end)):
                p.kernel("executorch_prim::add", "Scalar", before, p.scalar("Int", offset), after)
        rows = p.tensor(f"slice-{table}", (TOKENS, *shape), is_open=True)
        p.kernel(
            "aten::slice_copy", "Tensor_out", table, p.scalar("Int", 0), start, end, p.scalar("Int", 1), rows, rows
        )
        return rows

    def _open(self) -> None:
        """Begins the next XNNPACK graph, to which nodes are then added."""
        self._g = Graph(self._p)

    def _close(self, *values: tuple[str, Value], is_open: bool = True) -> list[int]:
        """Ends and runs the graph; returns the program's tensors of values, which it writes unless it reads them."""
        tensors = {value.index: tensor for tensor, value in self._g.inputs.items()}
        written = []
        for slot, value in values:
            if value.index not in tensors:
                tensors[value.index] = self._p.tensor(slot, value.shape, is_open=is_open)
                written.append(tensors[value.index])
                self._g.output(value)
        self._p.run(self._g, written)
        return [tensors[value.index] for _, value in values]

    def emit(self) -> None:
        """Emits the embedding, the layers and the logits of the last token."""
        p, spec = self._p, self._spec
        stream = self._through_layers(self._embedded())
        (whole,) = self._close(("last", stream))
        last = p.tensor("head", (1, spec.hidden_size))
        p.kernel("aten::select_copy", "int_out", whole, p.scalar("Int", 1), p.scalar("Int", -1), last, last)
        self._open()
        logits = self._logits(self._g.take(last, (1, spec.hidden_size)))
        (given,) = self._close(("logits", logits), is_open=False)
        p.output(given)

    def _embedded(self) -> Value:
        p, spec = self._p, self._spec
        shape = (1, TOKENS, spec.hidden_size)
        rows, (table, scales) = p.tensor("embedded", shape, is_open=True), p.weight(names.tensor("embed_tokens"))
        if scales is None:
            no = p.scalar("Bool", False)
            p.kernel("aten::embedding", "out", table, self._ids, p.scalar("Int", -1), no, no, rows, rows)
        else:
            levels = p.scalar("Int", -128), p.scalar("Int", 127)
            how = (table, scales, p.scalar("Null"), *levels, self._ids, rows, rows)
            p.kernel("quantized_decomposed::embedding_byte", "out", *how)
        stream = op.scaled(self._g, self._g.take(rows, shape), spec.block.embedding_multiplier)
        if spec.position_offset is None:
            return stream
        positions = self._slice(p.weight(names.tensor("positions"))[0], spec.hidden_size, offset=spec.position_offset)
        return op.add(self._g, stream, self._g.take(positions, (TOKENS, spec.hidden_size)))

    def _attended(self, index: int, attention: Attention, x: Value, *kept: Value) -> tuple[Value, ...]:
        """Emits attention as kernels between two XNNPACK graphs; see `ProgramDecoder`."""
        p, groups, size = self._p, attention.num_key_value_heads, attention.head_dim
        new = [(part, self._heads(index, attention, part, x)) for part in QKV]
        self._streams += 1
        slots = (f"{name}-{self._streams % 2}" for name in ("stream", "read"))
        query, key, value, *kept_at = self._close(*new, *zip(slots, kept, strict=True))
        caches = []
        for part, tensor in (("key", key), ("value", value)):
            caches.append(p.tensor(f"{part}-{index}", (1, cache_length(self._spec), groups, size)))
            nothing = p.tensor("nothing", (1,))
            p.kernel("llama::update_cache", "out", tensor, caches[-1], self._start, nothing, nothing)
        shape = (1, TOKENS, attention.num_attention_heads, size)
        out, scale = p.tensor("attended", shape, is_open=True), p.scalar("Double", attention.scale)
        how = p.scalar("Null"), p.scalar("Double", 0.0), p.scalar("Bool", True), scale
        p.kernel("llama::custom_sdpa", "out", query, *caches, self._start, *how, out, out)
        self._open()
        attended = op.reshape(self._g, self._g.take(out, shape), (1, TOKENS, attention.channels))
        return attended, *(self._g.take(tensor, one.shape) for tensor, one in zip(kept_at, kept, strict=True))

    def _angles(self, rope: RopeSpec, size: int) -> tuple[Value, Value]:
        tables = next(tables for one, of_size, tables in self._tables if one == rope and of_size == size)
        cosines, sines = (self._g.take(self._slices[table], (TOKENS, 1, size)) for table in tables)
        return cosines, sines
