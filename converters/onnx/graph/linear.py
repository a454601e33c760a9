"""Products with a model's weights and lookups in its embedding, in the precision of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.blocks import QuantizedWeight, embedding_blocks, matmul_blocks
from converters.onnx.graph.dialects import Dialect
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.integers import IntegerProducts
from converters.onnx.graph.tables import SplitTable
from converters.onnx.weights.weights import LazyWeights
from seap_export.model.families import Attention, Convolution, DeltaNet, Mamba, Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.pruning.rounding.grid import WHOLE_ROW

#: The kinds whose readers are joined: what their products' weights are called, and which readers each has.
JOINED: Mapping[type[Sublayer], Mapping[str, slice]] = {
    Attention: {"qkv_proj": slice(None)},
    Convolution: {"in_proj": slice(None)},
    Mamba: {"in_proj": slice(None)},
    DeltaNet: {"in_proj_qkvz": slice(0, 2), "in_proj_ba": slice(2, 4)},
}


def joined_name(first: str, stored_as: str) -> str:
    """The full name of joined weights or biases, given that of the first."""
    layer, _, suffix = (*first.rsplit(".", 2),)
    return f"{layer}.{stored_as}.{suffix}"


class Linears:
    """Emits linear layers; a weight that is used twice, such as a tied embedding, is stored once."""

    def __init__(self, g: GraphBuilder, weights: LazyWeights, dialect: Dialect, accuracy_level: int) -> None:
        """Takes the accuracy level of products with blocks; see `Provider`."""
        self._g, self._weights, self._dialect, self._level = g, weights, dialect, accuracy_level
        self._quantization = weights.precision.quantization
        self._matrices: dict[str, QuantizedWeight] = {}
        self._tables: dict[str, SplitTable] = {}
        self._integers = IntegerProducts(g)

    def product(
        self,
        x: ir.Value,
        weights: Sequence[str],
        name: str,
        *,
        stored_as: str,
        bias: ir.Value | None = None,
        is_rounded: bool = True,
    ) -> ir.Value:
        """`x @ W.T + bias` with the named weights [out, in] joined along `out`.

        Args:
            x: [batch_size, sequence_length, in].
            bias: [out].
        """
        if self._quantization is not None and is_rounded:
            if self._weights.grid(weights).input_block == WHOLE_ROW:
                tensors, shape = self._weights.quantized(weights, stored_as), self._weights.shape(weights)
                return self._integers.product(x, tensors, shape, name, bias)
            return matmul_blocks(self._g, x, self._quantized(weights, stored_as), name, self._level, bias)
        weight = self._g.initializer(self._weights.transposed(weights, f"{stored_as}.transposed"))
        return op.matmul(self._g, x, weight, name, bias)

    def projection(self, sublayer: Sublayer, projection: Projection, index: int, x: ir.Value, name: str) -> ir.Value:
        """The product of one of a sublayer's projections with `x`, and its bias, times its factor."""
        weight = names.weight(projection, index)
        product = self.product(x, [weight], name, stored_as=weight, bias=self.bias(sublayer, projection, index))
        return self._scaled(sublayer, [projection], product, name)

    def output(self, sublayer: Sublayer, index: int, channels: ir.Value) -> ir.Value:
        """The product of a sublayer's output projection with its channels, without a bias."""
        weight = names.weight(sublayer.output, index)
        label = f"layers.{index}.{sublayer.label}.{sublayer.output}"
        return self.product(channels, [weight], label, stored_as=weight)

    def joined(self, sublayer: Sublayer, index: int, x: ir.Value, name: str) -> ir.Value:
        """One product of some of a sublayer's readers with `x`, and their biases, times their factors.

        The last part of `name` says which, see `JOINED`.
        """
        stored_as = name.rpartition(".")[2]
        parts = sublayer.readers[JOINED[type(sublayer)][stored_as]]
        weights, biases = ([named(part, index) for part in parts] for named in (names.weight, names.bias))
        weight_name, bias_name = (joined_name(each[0], stored_as) for each in (weights, biases))
        rounding, columns, bias = self._quantization, self._weights.shape(weights)[1], None
        is_rounded = rounding is not None and set(parts) <= set(sublayer.rounded(columns, rounding.block_size))
        if parts[0] in sublayer.biases:
            bias = self._g.initializer(self._weights.joined(biases, bias_name))
        product = self.product(x, weights, name, stored_as=weight_name, bias=bias, is_rounded=is_rounded)
        return self._scaled(sublayer, parts, product, name)

    def _scaled(self, sublayer: Sublayer, parts: Sequence[Projection], product: ir.Value, name: str) -> ir.Value:
        """The products of some readers, one behind the other, times the factor of each."""
        factors, widths = [sublayer.factors.get(part, 1.0) for part in parts], sublayer.widths()
        dtype = self._weights.precision.onnx_dtype
        if len(set(factors)) == 1:
            return op.scaled(self._g, product, factors[0], dtype, f"{name}.scaled")
        row = np.repeat(factors, [widths[part] for part in parts]).astype(dtype.numpy())
        return op.multiply(self._g, product, self._g.constant(f"{name}.factors", row), f"{name}.scaled")

    def bias(self, sublayer: Sublayer, projection: Projection, index: int) -> ir.Value | None:
        """The bias of one of a sublayer's projections; None: it has none."""
        return self._stored(names.bias(projection, index)) if projection in sublayer.biases else None

    def embedding(self, table: str, ids: ir.Value, name: str) -> ir.Value:
        """Rows of the named table [vocab_size, hidden_size]."""
        if (split := self._split(table)) is not None:
            return split.rows(self._g, ids, name)
        if self._quantizes(table):
            return embedding_blocks(self._g, self._quantized([table], table), ids, name)
        return op.embedding(self._g, self._stored(table), ids, name)

    def head(self, x: ir.Value, table: str, *, is_tied: bool, name: str) -> ir.Value:
        """Logits: `x @ table.T`; a tied table [vocab_size, hidden_size] is the embedding as well."""
        if (split := self._split(table)) is not None:
            return split.logits(self._g, x, name, self._level)
        if self._quantizes(table):
            return matmul_blocks(self._g, x, self._quantized([table], table), name, self._level)
        if is_tied:
            return self._dialect.tied_head(x, self._stored(table), name)
        return op.matmul(
            self._g, x, self._g.initializer(self._weights.transposed([table], f"{table}.transposed")), name
        )

    def _quantizes(self, table: str) -> bool:
        return self._quantization is not None and self._quantization.takes_table(self._weights.shape([table])[1])

    def _split(self, table: str) -> SplitTable | None:
        """The named table, made once, if its rows have bits of their own."""
        rows = self._weights.table(table)
        if rows is not None and table not in self._tables:
            parts = [self._quantized([part.name], part.name) for part in rows.parts]
            self._tables[table] = SplitTable.of(self._g, parts, rows.places.numpy(), table)
        return self._tables.get(table)

    def _stored(self, name: str) -> ir.Value:
        return self._g.initializer(self._weights.stored(name))

    def _quantized(self, weights: Sequence[str], name: str) -> QuantizedWeight:
        """The matrix of this name, made once: a tied table is read twice."""
        if name not in self._matrices:
            weight, rounding, dtype = self._weights, self._weights.grid(weights), self._weights.precision.onnx_dtype
            tensors, shape = weight.quantized(weights, name), weight.shape(weights)
            self._matrices[name] = QuantizedWeight.of(self._g, tensors, shape, rounding, dtype)
        return self._matrices[name]
