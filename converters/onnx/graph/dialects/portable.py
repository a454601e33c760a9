"""The fused operators as the releases of ONNX Runtime in browsers and in Node, and its WebGPU provider, compute them.

Where onnxruntime-ep-webgpu 0.4.0 computes wrongly, and the smallest cases: docs/research/webgpu.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.fused import FusedDialect
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.rotary import RotaryTables
from seap_export.common.providers import Dtype
from seap_export.model.families import Attention

#: The score of a sink that no softmax sees, within the range of each dtype.
NO_SINK: Mapping[Dtype, float] = MappingProxyType({"fp32": -1e30, "fp16": -6e4})


class PortableDialect(FusedDialect):
    """com.microsoft operators; see `converters.onnx.graph.dialects.Dialect`."""

    #: Of QMoE, releases before 1.31 know neither attribute, and refuse a graph that has one.
    of_rounded_experts: Mapping[str, int] = MappingProxyType({})

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        super().__init__(g, ids, mask, tables)
        self._lent: dict[ir.Value, tuple[ir.Value, ir.Value, op.KeyValues]] = {}

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """With a sink that takes no part, if heads have none: the way around WebGPU's kernel for long prompts.

        That kernel, for 32 tokens and more, adds up the scores of one block of keys and the next on Vulkan.
        """
        attended = super().attention(qkv, past, attention, name, sinks or self._no_sinks(attention))
        if attention.lends_cache:
            _, key, value = qkv
            if attention.rope is not None:
                key = self.rotated(key, attention, attention.num_key_value_heads, f"{name}.lent_key")
            self._lent[attended.present.key] = key, value, past
        return attended

    def attention_to(self, query: ir.Value, cache: op.KeyValues, attention: Attention, name: str) -> ir.Value:
        """Once more with the other layer's keys and values, since not all releases read a cache without new ones.

        Its new cache is left unread.
        """
        key, value, past = self._lent[cache.key]
        unrotated = replace(attention, rope=None)
        return super().attention((query, key, value), past, unrotated, name, self._no_sinks(attention)).output

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        """Without naming SiLU, which releases before 1.31 always compute."""
        return self._g.node("GatedRMSNorm", [x, gain, gate], name, domain=MS_DOMAIN, attributes={"epsilon": epsilon})

    def _attributes(self, attention: Attention) -> Mapping[str, Any]:
        return {**super()._attributes(attention), "smooth_softmax": 1}

    def _no_sinks(self, attention: Attention) -> ir.Value:
        precision, heads = self._tables.precision, attention.num_attention_heads
        values = np.full(heads, NO_SINK[precision.dtype], precision.onnx_dtype.numpy())
        return self._g.constant(f"no_sinks_{heads}", values)
