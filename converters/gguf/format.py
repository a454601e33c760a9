"""The format `gguf`: one file for llama.cpp and all that is built on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES

from converters.format import Format
from converters.gguf.blocks import Q4_0, WAYS
from converters.gguf.choice import keeps_levels
from converters.gguf.file import FilePlan
from converters.gguf.stored import GgufWeights, precision_of
from converters.gguf.tokenizer.vocabulary import tokenizer_metadata
from converters.gguf.types import PRESETS
from converters.gguf.writer import write_gguf
from seap_export.common.llama_library import llama_library
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from seap_export.pruning.plan.recipes import Target
from seap_export.pruning.rounding.grid import BlockQuantization, Way
from seap_export.pruning.rounding.shares import groups_of

_BLOCK = GGML_QUANT_SIZES[Kind.Q8_0][0]


@dataclass(frozen=True)
class GgufFormat(Format):
    """`model.gguf` at a precision of llama.cpp's, by the name of the preset, or with a type for each matrix.

    The default is q8_0: next to the loss of pruning its own is nothing, it takes half the space of f16, and nothing
    has to be installed to write it. K-quants, and the LM head of q4_0, take llama.cpp's library.
    """

    name: ClassVar[str] = "gguf"
    runtimes: ClassVar[tuple[str, ...]] = ("llama.cpp",)
    precisions: ClassVar[tuple[str, ...]] = ("q8_0", *(name for name in PRESETS if name != "q8_0"))
    ways: ClassVar[tuple[Way, ...]] = tuple(WAYS.values())
    size_has_tokenizer: ClassVar[bool] = True
    version: ClassVar[int] = 5
    precision: str = precisions[0]

    @property
    def target(self) -> Target | None:
        """Whole blocks; rows that are none of a K-quant's 256 take a type with blocks of 32."""
        return None if self.precision in ("f32", "f16") else Target(block_size=_BLOCK)

    @classmethod
    def read(cls, folder: Path) -> GgufFormat:
        return cls.mixed_of(folder) or cls(precision_of(folder))

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        if self.average is not None and self.grid(spec) is None:
            others = " ".join(f"--format {self.name}:{name}" for name in ("q8_0", "q4_k_m"))
            return (
                f"{self.name}:{self.precision} cannot hold this model's levels, into which llama.cpp's architectures "
                f"need factors; name other precisions, such as {others}"
            )
        try:
            plan = FilePlan.of(spec, self.precision)
            tokenizer_metadata(model_folder, spec)
        except InputError as error:
            return str(error)
        if plan.needs_library():
            llama_library()
        return None

    def size(self, spec: ModelSpec) -> int:
        grid = self.grid(spec) if self.average is not None else None
        groups = () if grid is None else groups_of(spec, grid)
        bits = {name: self.average or 0.0 for group in groups for name in group.names}
        return FilePlan.of(spec, self.precision).size(bits)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """The grid, unless factors that are folded in change the numbers; of q4_0, the LM head is in another type."""
        if not keeps_levels(spec):
            return None
        if self.average is not None:
            return replace(Q4_0, embeddings=True, average=self.average, mix=self.name, ways=self.ways)
        return Q4_0 if self.precision == "q4_0" else None

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
        plan = FilePlan.of(read_spec(model_folder), self.precision, self.mixed_grid(model_folder))
        write_gguf(model_folder, out_folder, plan, on_layer)

    def weights(self, folder: Path, spec: ModelSpec) -> GgufWeights:
        return GgufWeights(folder, FilePlan.of(spec, self.precision))
