"""GGUF files in llama.cpp, as parity sees them."""

from __future__ import annotations

from converters.onnx.precision import BLOCK_SIZES, Precision, choose_precision
from validation.parity.candidate import Candidate, Trial
from validation.runtimes.runner import Runtime

__all__ = ["LlamaCandidate"]


class LlamaCandidate(Candidate):
    """See `Candidate`. On the CPU llama.cpp looks GELU up in a table of f16, even where everything else is f32.

    What K-quants are multiplied with has one scale for 256 numbers (`block_q8_K`), and not for 32.

    Source: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-cpu/vec.h, `GGML_GELU_FP16`; ggml/src/ggml-common.h.
    """

    def __init__(self, runtime: str, row: Runtime, trial: Trial) -> None:
        super().__init__(runtime, row, trial)
        if self.arithmetic.name == "fp32" and trial.spec.block.activation != "silu":
            self.arithmetic = Precision("fp16")
        elif "_k" in self.own.precision:
            self.arithmetic = choose_precision(self.arithmetic.name, block_size=max(BLOCK_SIZES))
