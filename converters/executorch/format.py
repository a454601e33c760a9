"""The format `executorch`: a program for ExecuTorch, which runs models in apps for phones and on small devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from converters.accepted import accepted_model, cannot_hold, changing_rotation, remark_on_length
from converters.executorch.decoder import cache_length, decoder_program, decoder_weights, rotations
from converters.executorch.packages import EXTRA
from converters.executorch.read_back import ExecutorchWeights
from converters.executorch.stored_program import PROGRAM, StoredProgram
from converters.executorch.weights import GRID
from converters.executorch.writer import write_program
from converters.format import Format, lacks
from converters.progress import LayerProgress
from converters.read_back import open_plain
from converters.small_files import copies, write_files
from converters.whole import whole_or_nothing
from seap_export.model.families import Attention, Mlp, ModelSpec
from seap_export.model.sources.config import end_tokens
from seap_export.pruning.rounding.grid import BlockQuantization

#: The nodes of a layer, bytes.
_LAYER = 12_000


@dataclass(frozen=True)
class ExecutorchFormat(Format):
    """Writes `model.pte`, a program for ExecuTorch's XNNPACK backend, and tokenizer.json.

    Attributes:
        precision: fp32; int8, with a scale for each row of a matrix; or int4, ExecuTorch's 8da4w, with one for each
            block of 32. Kernels round what they multiply such a matrix with to 8 bits, with a scale for each token.
    """

    name: ClassVar[str] = "executorch"
    extra: ClassVar[str | None] = EXTRA
    runtimes: ClassVar[tuple[str, ...]] = ("executorch",)
    precisions: ClassVar[tuple[str, ...]] = ("int8", "int4", "fp32")
    version: ClassVar[int] = 3
    precision: str = precisions[0]

    @classmethod
    def read(cls, folder: Path) -> ExecutorchFormat:
        return cls(StoredProgram(folder).precision)

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        return cannot_hold(self, lacks(spec, Attention, Mlp) or _unknown(spec))

    def remark(self, spec: ModelSpec) -> str | None:
        return remark_on_length(self, spec, cache_length(spec))

    def size(self, spec: ModelSpec) -> int:
        weights = decoder_weights(spec, self.precision)
        heads = [size for _, size in rotations(spec)]
        # besides weights: cosines and sines of all positions, and in each layer its nodes and what swaps channels
        outside = 8 * cache_length(spec) * sum(heads) + (_LAYER + 4 * max(heads, default=0) ** 2) * len(spec.layers)
        return sum(weight.size + weight.scale_size for weight in weights) + outside

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        return GRID if self.precision == "int4" else None

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        _, spec = accepted_model(self, model_folder)
        plain = open_plain(model_folder, spec)
        program = decoder_program(spec, self.precision, end_tokens(model_folder))
        progress = LayerProgress(program.weights, on_layer)
        with whole_or_nothing(out_folder):
            write_program(out_folder / PROGRAM, program, lambda name: plain.read([name])[name], progress.add)
            write_files(out_folder, copies(model_folder, "tokenizer.json"))

    def weights(self, folder: Path, spec: ModelSpec) -> ExecutorchWeights:
        return ExecutorchWeights(folder, spec)


def _unknown(spec: ModelSpec) -> str | None:
    """The first part that ExecuTorch's attention kernel or a table of angles cannot express, in words; None: none."""
    length = cache_length(spec)
    for attention in (sublayer for sublayer in spec.sublayers if isinstance(sublayer, Attention)):
        if attention.sliding_window is not None and attention.sliding_window < length:
            return "a sliding window"
        if attention.softcap is not None:
            return "bounded attention scores"
        if attention.query_scaling is not None:
            return "queries that are scaled by position"
    return changing_rotation(spec, length)
