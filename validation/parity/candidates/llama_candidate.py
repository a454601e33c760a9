"""Parity of GGUF files in llama.cpp, whose own rounding decides which limits hold."""

from __future__ import annotations

from converters.onnx.precision import Precision, choose_precision
from seap_export.model.families import Mlp
from seap_export.pruning.rounding.grid import BLOCK_SIZES
from validation.parity.candidates.candidate import ParityInput, RuntimeCandidate
from validation.runtimes.runner import Runtime


class LlamaCandidate(RuntimeCandidate):
    """A GGUF file in llama.cpp; see `RuntimeCandidate`.

    On the CPU llama.cpp looks GELU up in a table of f16, even where everything else is f32. What K-quants are
    multiplied with has one scale for 256 numbers (`block_q8_K`), and not for 32.

    Source: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-cpu/vec.h, `GGML_GELU_FP16`; ggml/src/ggml-common.h.
    """

    def __init__(self, runtime: str, row: Runtime, parity_input: ParityInput) -> None:
        super().__init__(runtime, row, parity_input)
        if self.arithmetic.name == "fp32" and parity_input.spec.first(Mlp).activation != "silu":
            self.arithmetic = Precision("fp16")
        elif "_k" in self.format.precision:
            self.arithmetic = choose_precision(self.arithmetic.name, block_size=max(BLOCK_SIZES))
