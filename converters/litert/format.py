"""The format `litert`: a bundle for LiteRT-LM, which runs language models on phones, computers and in browsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from converters.accepted import accepted_model, cannot_hold, changing_rotation, remark_on_length
from converters.format import Format, lacks
from converters.litert.bundle import BUNDLE, METADATA, PROGRAM, TOKENIZER, Bundle, header, model_sections
from converters.litert.decoder import cache_length, decoder_program, decoder_weights
from converters.litert.metadata import is_packed, llm_metadata, packed_tokenizer
from converters.litert.packages import EXTRA
from converters.litert.read_back import LitertWeights
from converters.litert.stored_program import StoredProgram
from converters.litert.weights import stored_numbers
from converters.progress import LayerProgress
from converters.read_back import open_plain
from converters.whole import whole_or_nothing
from seap_export.model.families import Attention, Mlp, ModelSpec

#: The nodes and tensors of a layer in all signatures, bytes.
_LAYER = 21_000


@dataclass(frozen=True)
class LitertFormat(Format):
    """Writes a bundle for LiteRT-LM: program, tokenizer, end tokens and chat template in one file.

    Attributes:
        precision: fp32; or int8, with a scale for each row of a matrix. The kernels then round what they multiply it
            with to 8 bits, too, with a scale and a zero point for each token.
    """

    name: ClassVar[str] = "litert"
    extra: ClassVar[str | None] = EXTRA
    runtimes: ClassVar[tuple[str, ...]] = ("litert",)
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp32")
    version: ClassVar[int] = 2
    precision: str = precisions[0]

    @classmethod
    def read(cls, folder: Path) -> LitertFormat:
        return cls(StoredProgram(Bundle(folder)).precision)

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        return cannot_hold(self, lacks(spec, Attention, Mlp) or changing_rotation(spec, cache_length(spec)))

    def remark(self, spec: ModelSpec) -> str | None:
        return remark_on_length(self, spec, cache_length(spec))

    def size(self, spec: ModelSpec) -> int:
        weights = decoder_weights(spec, self.precision)
        rows = [weight.shape[0] for weight in weights if weight.is_rounded]
        # a scale for each row, zero points once for matrices of as many rows, and the nodes
        return sum(weight.size for weight in weights) + 4 * sum(rows) + 8 * sum(set(rows)) + _LAYER * len(spec.layers)

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        self._write(model_folder, out_folder, on_layer, packed_tokenizer(model_folder))

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes it with the written tokenizer, which another release of zlib compresses to other bytes."""
        tokenizer = Bundle(written).section(TOKENIZER)
        if not is_packed(tokenizer, (model_folder / "tokenizer.json").read_bytes()):
            tokenizer = packed_tokenizer(model_folder)
        self._write(model_folder, out_folder, lambda layer: None, tokenizer)

    def _write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None], tokenizer: bytes) -> None:
        _, spec = accepted_model(self, model_folder)
        plain, program = open_plain(model_folder, spec), decoder_program(spec, self.precision)
        parts = {METADATA: llm_metadata(model_folder, cache_length(spec)), TOKENIZER: tokenizer}
        offsets, scales = program.offsets, dict[str, NDArray[np.float32]]()
        sizes = {kind: len(part) for kind, part in parts.items()}
        head, starts = header(model_sections({**sizes, PROGRAM: offsets[""]}))
        progress = LayerProgress(program.weights, on_layer)
        with whole_or_nothing(out_folder), (out_folder / BUNDLE).open("wb") as file:
            for start, part in zip([0, *starts], [head, *parts.values()], strict=False):
                file.seek(start)
                file.write(part)
            for name, weight in program.weights.items():
                (tensor,) = plain.read([name]).values()
                stored = stored_numbers(weight, tensor)
                if stored.scales is not None:
                    scales[name] = stored.scales
                file.seek(starts[-1] + offsets[name])
                file.write(stored.numbers.data)
                progress.add(name)
            file.seek(starts[-1])
            file.write(program.packed(scales))

    def weights(self, folder: Path, spec: ModelSpec) -> LitertWeights:
        return LitertWeights(folder, spec)
