"""Reads the weights of a LiteRT-LM bundle back, and finds its differences from the model folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.comparison import other_numbers, worse_rows
from converters.litert.bundle import BUNDLE, METADATA, PROGRAM, TOKENIZER, Bundle, header, model_sections
from converters.litert.decoder import cache_length, decoder_program
from converters.litert.metadata import is_packed, llm_metadata
from converters.litert.stored_program import StoredProgram
from converters.litert.weights import StoredNumbers, stored_numbers
from converters.read_back import PlainWeights, open_plain
from converters.small_files import foreign_files
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec


class LitertWeights(PlainWeights):
    """The weights of a bundle by the names of the model folder, float32; one tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._stored, self._shapes = StoredProgram(Bundle(folder)), spec.tensors()

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
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
    """Finds, without running a model, damaged and foreign parts of a bundle; see `Format.damages`.

    Two releases of zlib may compress the tokenizer to other bytes, so what they give is compared.
    """
    spec = read_spec(model_folder)
    yield from foreign_files(folder, [BUNDLE])
    try:
        bundle = Bundle(folder)
        if bundle.section(METADATA) != llm_metadata(model_folder, cache_length(spec)):
            yield f"{bundle.path}: other end tokens, chat template or context than the model's; export again"
        if not is_packed(bundle.section(TOKENIZER), (model_folder / "tokenizer.json").read_bytes()):
            yield f"{bundle.path}: another tokenizer than the model's, or a damaged one; export again"
        head, starts = header(model_sections(bundle.sizes))
        if bundle.head != head or len(bundle.data) != starts[-1] + bundle.sizes[PROGRAM]:
            yield f"{bundle.path}: other sections than the model's, or bytes after them; export again"
        other = StoredProgram(bundle).other_program(decoder_program(spec, precision))
        if other is not None:
            yield f"{bundle.path}: another program than that of the model: {other}; export again"
    except ArtifactError as error:
        yield str(error)
