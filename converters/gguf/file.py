"""Plans the GGUF file of a model before a byte is written: its architecture, metadata and tensors, and its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from numpy.typing import NDArray

from converters.gguf.architectures import Architecture
from converters.gguf.blocks import WAYS
from converters.gguf.choice import choose_architecture
from converters.gguf.layout import FileTensor, file_tensors
from converters.gguf.metadata import Metadata, model_metadata, rope_tensors
from converters.gguf.types import MIXED_PRESET, PRESETS, Preset, bytes_of, needs_library, type_of, wanted_type
from seap_export.model.families import ModelSpec
from seap_export.pruning.rounding.grid import BlockQuantization

MODEL_FILE = "model.gguf"
#: About what the metadata take: a token with its text and kind, and two merges.
_BYTES_OF_TOKEN, _BYTES_OF_TENSOR = 45, 64


@dataclass(frozen=True)
class FilePlan:
    """The file of a model at a precision; see `FilePlan.of`."""

    spec: ModelSpec
    architecture: Architecture
    preset: Preset
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: ModelSpec, precision: str, grid: BlockQuantization | None = None) -> FilePlan:
        by_way = {(way.bits, way.block_size, way.levels): kind for kind, way in WAYS.items()}
        others = () if grid is None else grid.others
        kinds = {name: by_way[bits, size, levels] for name, bits, size, levels in others}
        preset = PRESETS.get(precision, MIXED_PRESET)
        if kinds:
            shapes, weights = spec.tensors(), Counter[Kind]()
            for name, kind in kinds.items():
                weights[kind] += prod(shapes.get(name, ()))
            most = max(weights, key=lambda kind: weights[kind])
            preset = replace(preset, number=int(LlamaFileType[f"MOSTLY_{most.name}"]))
        return cls(spec, choose_architecture(spec), preset, kinds)

    @cached_property
    def tensors(self) -> tuple[FileTensor, ...]:
        """The tensors made from the model's, in the order of the file."""
        return tuple(file_tensors(self.architecture, self.spec))

    @cached_property
    def rope_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Further tensors by name, float32: the factors of the rotation. In the file they precede the others."""
        return rope_tensors(self.spec)

    @property
    def metadata(self) -> Metadata:
        """All metadata of the file except those of the tokenizer."""
        return model_metadata(self.architecture, self.spec, self.preset)

    def kind(self, tensor: FileTensor) -> Kind:
        """The GGML type that a tensor is stored in."""
        usual = type_of(tensor, self.preset, len(self.spec.layers), self.spec.tie_word_embeddings)
        return self.kinds.get(tensor.parts[0].plain, usual)

    def needs_library(self) -> bool:
        """Whether llama.cpp's library is needed to write the file."""
        return any(needs_library(self.kind(tensor)) for tensor in self.tensors)

    def size(self, bits: Mapping[str, float] | None = None) -> int:
        """The bytes of the file, of which those of the tokenizer are estimated."""
        chosen = [(tensor, (bits or {}).get(tensor.parts[0].plain)) for tensor in self.tensors]
        sizes = [
            bytes_of(tensor, self.kind(tensor)) if its is None else round(tensor.size * its / 8)
            for tensor, its in chosen
        ]
        sizes += [factors.nbytes for factors in self.rope_tensors.values()]
        padded = sum(-(-size // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT for size in sizes)
        return padded + _BYTES_OF_TOKEN * self.spec.vocab_size + _BYTES_OF_TENSOR * len(sizes)

    def missing_alignment(self) -> int | None:
        """The number that MLP widths must be multiples of for its rows to be whole blocks; None: they are already."""
        tied, layers = self.spec.tie_word_embeddings, len(self.spec.layers)
        wanted = [
            (tensor.columns, GGML_QUANT_SIZES[wanted_type(tensor, self.preset, layers, tied)][0])
            for tensor in self.tensors
            if tensor.stem == "ffn_down" and len(tensor.shape) == 2
        ]
        return max((block for columns, block in wanted if columns % block), default=None)

    def fallbacks(self) -> dict[tuple[Kind, Kind], tuple[int, int]]:
        """How many tensors are stored in another type because their rows are not whole blocks, and the bytes it costs.

        Returns:
            Count and bytes, by the wanted type and the one taken.
        """
        costs: dict[tuple[Kind, Kind], tuple[int, int]] = {}
        for tensor in self.tensors:
            wanted = wanted_type(tensor, self.preset, len(self.spec.layers), self.spec.tie_word_embeddings)
            taken = self.kind(tensor)
            if taken != wanted:
                count, cost = costs.get((wanted, taken), (0, 0))
                cost += bytes_of(tensor, taken) - bytes_of(tensor, wanted)
                costs[wanted, taken] = (count + 1, cost)
        return costs
