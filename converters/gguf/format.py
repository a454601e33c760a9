"""The format `gguf`: one file for llama.cpp and all that is built on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES

from converters.format import Format
from converters.gguf.choice import keeps_levels
from converters.gguf.file import FilePlan
from converters.gguf.q4_0 import Q4_0
from converters.gguf.stored import GgufWeights, file_damages, precision_of, weight_differences
from converters.gguf.tokenizer.vocabulary import tokenizer_metadata
from converters.gguf.types import PRESETS
from converters.gguf.writer import write_gguf
from seap_export.common.llama_library import llama_library
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.recipes import Target
from seap_export.pruning.rounding.grid import BlockQuantization

_BLOCK = GGML_QUANT_SIZES[Kind.Q8_0][0]


@dataclass(frozen=True)
class GgufFormat(Format):
    """`model.gguf` at a precision of llama.cpp's, by the name of the preset.

    The default is q8_0: next to the loss of pruning its own is nothing, it takes half the space of f16, and nothing
    has to be installed to write it. K-quants, and the LM head of q4_0, take llama.cpp's library.
    """

    name: ClassVar[str] = "gguf"
    runtimes: ClassVar[tuple[str, ...]] = ("llama.cpp",)
    precisions: ClassVar[tuple[str, ...]] = ("q8_0", *(name for name in PRESETS if name != "q8_0"))
    version: ClassVar[int] = 4
    precision: str = precisions[0]

    @property
    def target(self) -> Target | None:
        """Whole blocks; rows that are none of a K-quant's 256 take a type with blocks of 32."""
        return None if PRESETS[self.precision].kind in (Kind.F32, Kind.F16) else Target(block_size=_BLOCK)

    @classmethod
    def read(cls, folder: Path) -> GgufFormat:
        return cls(precision_of(folder))

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        try:
            plan = FilePlan.of(spec, self.precision)
            tokenizer_metadata(model_folder, spec)
        except InputError as error:
            return str(error)
        if plan.needs_library():
            llama_library()
        return None

    def size(self, spec: ModelSpec) -> int:
        return FilePlan.of(spec, self.precision).size()

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """The grid of Q4_0, unless factors that are folded in change the numbers; the LM head is in another type."""
        return Q4_0 if self.precision == "q4_0" and keeps_levels(spec) else None

    def remark(self, spec: ModelSpec) -> str | None:
        """Names the types that tensors are stored in where their rows are not whole blocks, and the bytes it costs."""
        plan = FilePlan.of(spec, self.precision)
        fallbacks, align = plan.fallbacks(), plan.missing_alignment()
        if not fallbacks:
            return None
        parts = [
            f"{taken.name} in place of {wanted.name} in {count} tensors ({cost / 1e6:+.1f} MB)"
            for (wanted, taken), (count, cost) in fallbacks.items()
        ]
        remedy = f"; align = {align} in a recipe avoids it in the MLP" if align else ""
        return f"gguf:{self.precision}: rows that are not whole blocks take {', '.join(parts)}{remedy}"

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        write_gguf(model_folder, out_folder, self.precision, on_layer)

    def weights(self, folder: Path, spec: ModelSpec) -> GgufWeights:
        return GgufWeights(folder, FilePlan.of(spec, self.precision))

    def differences(self, model_folder: Path, folder: Path) -> Iterator[str]:
        return weight_differences(model_folder, folder, self.precision)

    def damages(self, model_folder: Path, folder: Path) -> Iterator[str]:
        return file_damages(model_folder, folder, self.precision)
