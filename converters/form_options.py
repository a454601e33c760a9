"""The options of ONNX graphs, as commands and settings files give them."""

from __future__ import annotations

from typing import Any, Literal

from seap_export.common.options import option, options
from seap_export.common.providers import DialectName, Dtype, WrittenFor
from seap_export.common.values import PrecisionOrNone


@options
class FormOptions:
    """The options of ONNX graphs, for formats that take them (`Row.has_options`); None or False: not given."""

    provider: WrittenFor = option(
        "Execution provider of ONNX Runtime that the variants are made for and checked on.",
        default="cpu",
        title="Machine",
    )
    precision: PrecisionOrNone = option(
        "Precision of the ONNX weights; mixed-3.5: bits for each matrix, 3.5 on average.",
        default=None,
        unset="int8 on cpu and webgpu, fp16 on cuda",
        title="Output",
    )
    activations: Dtype | None = option(
        "For int8 and int4: dtype of activations and caches.",
        default=None,
        unset="fp32 on cpu and webgpu, fp16 on cuda",
    )
    block_size: Literal[32, 64, 128] | None = option(
        "For int8 and int4: number of weights that share a scale.", default=None, unset="32"
    )
    asymmetric: bool = option("For int8 and int4: store a zero point for each block.", default=False)
    float_embeddings: bool = option("For int8 and int4: do not quantise the embedding and the LM head.", default=False)
    dialect: DialectName | None = option(
        "Use ONNX Runtime's fused operators, or only operators of the ONNX standard.", default=None, unset="fused"
    )
    logits: Literal["all", "last"] | None = option(
        "Give the logits of all positions, or only those after a prompt, which is faster.",
        default=None,
        unset="last",
        title="Output",
        rare=True,
    )

    @property
    def given(self) -> dict[str, Any]:
        """The options that are given, by name, without the provider, which is not an option of graphs alone."""
        return {name: value for name, value in vars(self).items() if name != "provider" and value not in (None, False)}
