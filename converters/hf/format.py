"""The model folder as a format: it is where the others start, so that only `export` and `prune` write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from converters.format import Format, Place
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import config_damages, read_spec
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.weights import SafetensorsReader, check_weights, main_dtype

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_SIZES = {name: dtype.itemsize for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The precision of weights that are stored in a dtype."""
    return _NAMES[dtype]


@dataclass(frozen=True)
class HfFormat(Format):
    """config.json, safetensors, the tokenizer and the modelling code; see `converters.format.Format`."""

    name: ClassVar[str] = "hf"
    runtimes: ClassVar[tuple[str, ...]] = ("torch", "vllm")
    precisions: ClassVar[tuple[str, ...]] = tuple(_SIZES)
    version: ClassVar[int] = 1
    precision: str = "fp32"

    @classmethod
    def read(cls, folder: Path) -> HfFormat:
        try:
            return cls(dtype_name(main_dtype(SafetensorsReader(folder))))
        except InputError as error:
            raise ArtifactError(str(error)) from error

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        """Always raises `UsageError`: a model folder is not made from itself."""
        raise UsageError("a model folder is in the format hf already; use another --format")

    def size(self, spec: ModelSpec) -> int:
        return spec.num_parameters() * _SIZES[self.precision]

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        """Raises `UsageError`, as `refusal` does."""
        self.refusal(read_spec(model_folder), model_folder)

    def weights(self, folder: Path, spec: ModelSpec) -> _Weights:
        return _Weights(folder)


def model_damages(folder: Path) -> Iterator[str]:
    """What is wrong with a model folder, found without running it; a line each.

    Raises:
        InputError: A file cannot be read.
    """
    reader, stored = SafetensorsReader(folder), StoredForm(read_spec(folder)).shapes
    check_weights(reader, stored, str(folder))
    yield from config_damages(folder, {*reader.dtypes().values()})
    for name in sorted(reader.shapes().keys() - stored.keys()):
        yield f"{folder}: config.json does not describe the tensor '{name:.80}'"


class _Weights:
    """The `StoredWeights` of a model folder: its tensors, converted to float32."""

    def __init__(self, folder: Path) -> None:
        self._reader, self.places = SafetensorsReader(folder), list[Place]()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, converted to float32."""
        return {name: tensor.float() for name, tensor in self._reader.read(names).items()}
