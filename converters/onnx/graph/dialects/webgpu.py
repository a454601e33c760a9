"""The fused operators as the WebGPU provider computes them rightly, and on the device.

Where onnxruntime-ep-webgpu 0.4.0 computes wrongly, and the smallest cases: docs/research/webgpu.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.fused import FusedDialect
from seap_export.common.providers import Dtype
from seap_export.model.families import Attention
from seap_export.model.families.sublayers import Activation

#: The score of a sink that no softmax sees, within the range of each dtype.
NO_SINK: Mapping[Dtype, float] = MappingProxyType({"fp32": -1e30, "fp16": -6e4})


class WebGpuDialect(FusedDialect):
    """com.microsoft operators; see `converters.onnx.graph.dialects.Dialect`."""

    @property
    def state_dtype(self) -> ir.DataType:  # type: ignore[override]
        """The dtype of the graph: LinearAttention takes no other."""
        return self._tables.precision.onnx_dtype

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """Gemm, the only product on the device that takes the table as the embedding stores it."""
        g = self._g
        assert table.shape is not None
        vocabulary, hidden_size = table.shape.numpy()
        rows = g.node("Reshape", [x, g.ints(-1, hidden_size)], f"{name}.rows")
        product = g.node("Gemm", [rows, table], f"{name}.product", attributes={"transB": 1})
        leading = g.node("Shape", [x], f"{name}.leading", attributes={"start": 0, "end": 2})
        shape = g.node("Concat", [leading, g.ints(vocabulary)], f"{name}.shape", attributes={"axis": 0})
        return g.node("Reshape", [product, shape], name)

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """With a sink that takes no part, if heads have none, which is the way around the kernel for long prompts.

        That kernel, for 32 tokens and more, adds up the scores of one block of keys and the next on Vulkan.
        """
        return super().attention(qkv, past, attention, name, sinks or self._no_sinks(attention))

    def _attributes(self, attention: Attention) -> Mapping[str, Any]:
        return {**super()._attributes(attention), "smooth_softmax": 1}

    def _gates_by_norm(self, kind: Activation) -> bool:
        """Not where ONNX Runtime makes one kernel of a norm, two products of 4 bits, SiLU and the product of both."""
        how = self._tables.precision.quantization
        is_fused = how is not None and (how.bits, how.block_size, how.symmetric) == (4, 32, True)
        return kind != "silu" or not is_fused

    def _no_sinks(self, attention: Attention) -> ir.Value:
        precision, heads = self._tables.precision, attention.num_attention_heads
        values = np.full(heads, NO_SINK[precision.dtype], precision.onnx_dtype.numpy())
        return self._g.constant(f"no_sinks_{heads}", values)
