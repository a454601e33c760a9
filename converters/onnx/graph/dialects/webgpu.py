"""The fused operators as the WebGPU provider runs them best: on the device, and in few kernels.

Where onnxruntime-ep-webgpu 0.4.0 computes wrongly, and the smallest cases: docs/research/webgpu.md.
"""

from __future__ import annotations

import onnx_ir as ir

from converters.onnx.graph.dialects.portable import PortableDialect
from seap_export.model.families.sublayers import Activation


class WebGpuDialect(PortableDialect):
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

    def _gates_by_norm(self, kind: Activation) -> bool:
        """SiLU alone, which the kernel takes whatever is asked for.

        Not where ONNX Runtime makes one kernel of a norm, two products of 4 bits, SiLU and the product of both.
        """
        grid = self._tables.precision.quantization
        is_fused = grid is not None and (grid.bits, grid.block_size, grid.symmetric) == (4, 32, True)
        return kind == "silu" and not is_fused
