"""Reads the weights of an ExecuTorch program back, and finds differences between its folder and the model folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.comparison import other_numbers, worse_rows
from converters.executorch.decoder import decoder_program, decoder_weights
from converters.executorch.stored_program import PROGRAM, StoredProgram
from converters.executorch.weights import StoredNumbers, stored_numbers
from converters.read_back import PlainWeights, open_plain
from converters.small_files import copies, file_differences, foreign_files
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import end_tokens, read_spec


class ExecutorchWeights(PlainWeights):
    """The weights of a program by the names of the model folder, float32; one tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._stored = StoredProgram(folder)
        self._weights = {weight.name: weight for weight in decoder_weights(spec, self._stored.precision)}

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        return self._stored.numbers(self._weights[name]).rows()


def weight_differences(model_folder: Path, folder: Path, precision: str) -> Iterator[str]:
    """The tensors that are further from the model's than rounding explains; see `Format.differences`."""
    spec = read_spec(model_folder)
    stored, plain = StoredProgram(folder), open_plain(model_folder, spec)
    for weight in decoder_weights(spec, precision):
        (tensor,) = plain.read([weight.name]).values()
        wanted, given = stored_numbers(weight, tensor), stored.numbers(weight)
        line = (
            other_numbers(weight.name, [(wanted.rows().numpy(), given.rows().numpy())], "fp32")
            if weight.kind == "fp32"
            else _other_levels(wanted, given)
        )
        if line is not None:
            yield line


def _other_levels(wanted: StoredNumbers, given: StoredNumbers) -> str | None:
    name, scales = given.weight.name, given.scales
    if scales is None or not (scales.isfinite() & (scales > 0)).all():
        return f"'{name}' has no scales, or some that are not above zero"
    steps = scales.float().reshape(len(scales), -1).numpy()

    def read(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        return wanted.rows(rows).numpy(), given.rows(rows).numpy(), steps[rows]

    return worse_rows(name, len(scales), read)


def program_damages(model_folder: Path, folder: Path, precision: str) -> Iterator[str]:
    """Finds, without running a model, damaged and foreign parts of a folder; see `Format.damages`."""
    files = copies(model_folder, "tokenizer.json")
    yield from file_differences(folder, files)
    yield from foreign_files(folder, [*files, PROGRAM])
    try:
        stored = StoredProgram(folder)
        program = decoder_program(read_spec(model_folder), precision, end_tokens(model_folder))
        if (other := stored.other_program(program)) is not None:
            yield f"{stored.path}: another program than that of the model: {other}; export again"
    except ArtifactError as error:
        yield str(error)
