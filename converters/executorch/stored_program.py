"""Reads a written program: the weights in it, and how it differs from that of a model."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from converters.executorch.decoder import BITS, PRECISION
from converters.executorch.packages import require
from converters.executorch.weights import GRID, StoredNumbers, Weight
from converters.format import Place
from seap_export.errors import ArtifactError

PROGRAM = "model.pte"
#: What parsers raise when they read a damaged file.
_DAMAGES = (struct.error, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, AssertionError)


@dataclass(frozen=True)
class _Span:
    """A range of bytes in the file."""

    start: int
    size: int


class StoredProgram:
    """A written program. The numbers of its weights are named data, which are read by name.

    Attributes:
        precision: `fp32`, `int8` or `int4`.
        places: The bytes that were read for weights until now.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.places = folder / PROGRAM, list[Place]()
        try:
            with self.path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.path}: missing; export again") from error
        except (OSError, ValueError) as error:
            raise self.damaged(error) from error
        try:
            self._spans, self.precision = self._read()
        except _DAMAGES as error:
            raise self.damaged(error) from error

    def _read(self) -> tuple[Mapping[str, _Span], str]:
        binary = require("executorch.exir._serialize._program")
        header = binary._get_extended_header(self._data[:64])
        if header is None or header.segment_base_offset + header.segment_data_size > len(self._data):
            raise ValueError("no program of ExecuTorch, or truncated")
        program = require("executorch.exir._serialize._flatbuffer_program")._flatbuffer_to_program(
            self._data[: header.program_size]
        )
        spans = {}
        for named in program.named_data:
            segment = program.segments[named.segment_index]
            spans[named.key] = _Span(header.segment_base_offset + segment.offset, segment.size)
        (told,) = (plan.values[0].val for plan in program.execution_plan if plan.name == PRECISION)
        return spans, {bits: precision for precision, bits in BITS.items()}[told.int_val]

    def damaged(self, reason: object) -> ArtifactError:
        """Makes the error that the file is damaged, for this reason."""
        return ArtifactError(f"{self.path}: damaged ({' '.join(str(reason).split()):.120}); export again")

    def numbers(self, weight: Weight) -> StoredNumbers:
        """The stored numbers of a tensor; raises `ArtifactError` if it is missing or has another shape."""
        rows, *columns = weight.shape
        if weight.kind == "int4":
            packed = self._tensor(weight.name, weight.size, np.uint8, rows, columns[0] // 2)
            scales = self._tensor(weight.scale_name, weight.scale_size, np.int16, rows, columns[0] // GRID.block_size)
            return StoredNumbers(weight, packed, scales.view(torch.bfloat16))
        if weight.kind == "int8":
            levels = self._tensor(weight.name, weight.size, np.int8, *weight.shape)
            return StoredNumbers(weight, levels, self._tensor(weight.scale_name, weight.scale_size, np.float32, rows))
        return StoredNumbers(weight, self._tensor(weight.name, weight.size, np.float32, *weight.shape))

    def _tensor(self, name: str, size: int, dtype: type[np.generic], *shape: int) -> torch.Tensor:
        span = self._spans.get(name)
        if span is None or span.size != size or span.start + size > len(self._data):
            raise self.damaged(f"'{name:.80}' is missing, or of another shape")
        numbers = np.frombuffer(self._data[span.start : span.start + size], dtype).reshape(shape)
        self.places.append(Place(self.path, span.start, span.start + size))
        return torch.from_numpy(numbers.copy())
