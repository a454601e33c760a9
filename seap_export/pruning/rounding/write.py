"""Writes a rounded model as a folder of its own, from which every format with the same grid is written.

Its weights are float32 numbers that lie on the grid: a format that rounds them to the nearest level finds just these
levels. So no format needs to know how they were chosen.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from seap_export.common.durable import keep
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import PART, UNFINISHED
from seap_export.model.sources.source import Source
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.tokenizer import copy_tokenizer
from seap_export.model.sources.weights import WeightReader
from seap_export.model.sources.written import folder_source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.note import RoundingNote, without_dtype
from seap_export.pruning.rounding.shares import shared_out
from seap_export.pruning.rounding.walk import RoundedLayers
from seap_export.pruning.shrink.write import MODELING_FILES, write_weights

_TABLES, _SHARES = "tables", "shares.json"


def write_rounded_model(
    model_folder: Path,
    statistics: TaskMixture,
    grid: BlockQuantization,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    compute: Compute | None = None,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Writes safetensors, config, tokenizer and what else the model folder has into the existing `folder`.

    One layer is in memory at a time. It continues what an interrupted call with the same arguments left in the folder.

    Args:
        model_folder: config.json, safetensors files and tokenizer, dense or pruned.
        statistics: The calibration texts.
        grid: The grid; one with an average gets the bits of each matrix.
        on_layer: Called with a layer's index once it is written.
        compute: Where layers are computed; None: on the CPU.
        vocabulary: The tokens that the model folder keeps of those that were calibrated on; None: all.

    Raises:
        InputError: The model is damaged, or the calibration was made with another vocabulary.
    """
    source, compute = folder_source(model_folder), compute or Compute()
    texts = _kept_tokens(statistics.token_ids(), vocabulary)
    largest = max(max(ids) for ids, _ in texts)
    if largest >= source.spec.vocab_size:
        raise InputError(
            f"{model_folder}: the calibration has token id {largest}, the model a vocabulary of "
            f"{source.spec.vocab_size}; give the calibration of this model"
        )
    unfinished = folder / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    if grid.ways:
        grid = _shared_out(source, texts, grid, unfinished, compute)
    walk = RoundedLayers(source, statistics, texts, grid, unfinished, compute)
    tables = unfinished / _TABLES
    if not tables.is_file():
        _keep_tables(walk, source, tables)
    rounded = replace(source, reader=_Rounded(source.reader, tables))

    def layers(first: int) -> Iterator[Mapping[str, torch.Tensor]]:
        return walk.layers(first, rounded.read_embedding())

    write_weights(rounded, source.spec, layers, folder, on_layer, saved=walk.saved)
    write_other_files(model_folder, folder, RoundingNote.of(model_folder, folder, grid))
    shutil.rmtree(unfinished)


def _shared_out(
    source: Source,
    texts: list[tuple[list[int], float]],
    grid: BlockQuantization,
    unfinished: Path,
    compute: Compute,
) -> BlockQuantization:
    """The grid with the bits of each matrix, which are kept for a call that goes on."""
    file = unfinished / _SHARES
    if file.is_file():
        return BlockQuantization(**read_json(file))
    grid = shared_out(source, [ids for ids, _ in texts], grid, unfinished, compute.device)
    part = file.with_name(file.name + PART)
    write_json(part, grid.to_json())
    keep(part, file)
    return grid


def _kept_tokens(
    texts: Iterable[tuple[list[int], float]], vocabulary: Vocabulary | None
) -> list[tuple[list[int], float]]:
    """Texts in a variant's own ids; tokens that it lacks, which texts of other tasks may have, are left out."""
    if vocabulary is None:
        return list(texts)
    new_ids = vocabulary.new_ids
    renumbered = [([new_ids[token] for token in ids if token in new_ids], weight) for ids, weight in texts]
    return [(ids, weight) for ids, weight in renumbered if ids]


def write_other_files(model_folder: Path, folder: Path, note: RoundingNote) -> None:
    """Writes all files of a rounded model but its weights."""
    write_json(folder / "config.json", {**without_dtype(model_folder), "dtype": "float32"}, indent=2, sort_keys=True)
    note.write(folder)
    for name in ("generation_config.json", *MODELING_FILES):
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, folder / name)
    copy_tokenizer(model_folder, folder)


def _keep_tables(walk: RoundedLayers, source: Source, file: Path) -> None:
    """Writes the tables that are rounded, so that they are there as a whole or not at all, and not held in memory."""
    part = file.with_name(file.name + PART)
    every = source.reader.shapes()
    shapes = {names.tensor(name): every[names.tensor(name)] for name in walk.tables}
    with SafetensorsWriter(part, shapes, torch.float32) as writer:
        for name, table in walk.outer():
            writer.write(names.tensor(name), table)
    keep(part, file)


class _Rounded:
    """Float32 weights, with the tables of a file in the place of the model's."""

    def __init__(self, reader: WeightReader, tables: Path) -> None:
        self._reader, self._file = reader, tables
        with safe_open(tables, "pt") as file:
            self._tables = frozenset(file.keys())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._reader.shapes()

    def dtypes(self) -> dict[str, torch.dtype]:
        return dict.fromkeys(self.shapes(), torch.float32)

    def read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        names = list(wanted)
        rest = self._reader.read([name for name in names if name not in self._tables])
        with safe_open(self._file, "pt") as file:
            return {name: file.get_tensor(name) if name in self._tables else rest[name] for name in names}
