"""Reads the weights of a bundle back, and finds what is not as the model folder has it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.comparison import other_numbers, worse_rows
from converters.litert.bundle import METADATA, TOKENIZER, Bundle
from converters.litert.decoder import cache_length, decoder_program
from converters.litert.metadata import llm_metadata, unpacked_tokenizer
from converters.litert.stored_program import StoredProgram
from converters.litert.weights import StoredNumbers, stored_numbers
from converters.read_back import PlainWeights, open_plain
from seap_export.errors import ArtifactError
from seap_export.families import ModelSpec
from seap_export.sources.config import read_spec


class LitertWeights(PlainWeights):
    """The weights of a bundle by the names of the model folder, float32; one tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._stored, self._shapes = StoredProgram(Bundle(folder)), spec.tensors()

    def plain(self, name: str) -> torch.Tensor:
        """See `PlainWeights`."""
        return torch.from_numpy(self._stored.numbers(name, self._shapes[name]).rows())


def weight_differences(model_folder: Path, folder: Path, precision: str) -> Iterator[str]:
    """The tensors that are further from the model's than rounding explains; see `Format.differences`."""
    spec = read_spec(model_folder)
    stored, plain = StoredProgram(Bundle(folder)), open_plain(model_folder, spec)
    for name, weight in decoder_program(spec, precision).weights.items():
        (tensor,) = plain.read([name]).values()
        wanted, given = stored_numbers(weight, tensor), stored.numbers(name, weight.shape)
        line = _other_levels(name, wanted, given) if weight.is_rounded else _other_floats(name, wanted, given)
        if line is not None:
            yield line


def _other_floats(name: str, wanted: StoredNumbers, given: StoredNumbers) -> str | None:
    return other_numbers(name, [(wanted.rows(), given.rows())], "fp32")


def _other_levels(name: str, wanted: StoredNumbers, given: StoredNumbers) -> str | None:
    if given.scales is None or not np.isfinite(given.scales).all():
        return f"'{name}' has no scales, or NaN or infinite ones"
    scales = given.scales

    def read(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        return wanted.rows(rows), given.rows(rows), scales[rows, None]

    return worse_rows(name, len(scales), read)


def bundle_damages(model_folder: Path, folder: Path, precision: str) -> Iterator[str]:
    """What shows without running a model that a bundle is damaged, or not of this model; see `Format.damages`."""
    spec = read_spec(model_folder)
    try:
        bundle = Bundle(folder)
        if bundle.section(METADATA) != llm_metadata(model_folder, cache_length(spec)):
            yield f"{bundle.path}: other end tokens, chat template or context than the model's; export again"
        try:
            text = unpacked_tokenizer(bundle.section(TOKENIZER))
        except zlib.error as error:
            raise bundle.damaged(error) from error
        if text != (model_folder / "tokenizer.json").read_bytes():
            yield f"{bundle.path}: another tokenizer than the model's; export again"
        if not StoredProgram(bundle).is_of(decoder_program(spec, precision)):
            yield f"{bundle.path}: another program than that of the model; export again"
    except ArtifactError as error:
        yield str(error)
