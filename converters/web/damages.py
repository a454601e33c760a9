"""Finds missing, damaged and foreign parts of a folder for transformers.js."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from converters.onnx.form import read_form
from converters.onnx.precision import Precision
from converters.onnx.structure import graph_differences
from converters.onnx.weights.scaling import read_scaling
from converters.onnx.weights.weights import open_weights
from converters.small_files import file_differences
from converters.web.configs import web_files
from converters.web.data_files import data_name, data_slots
from converters.web.graph import shape_graph, web_graph
from converters.web.precisions import file_name, precision_of
from seap_export.errors import ArtifactError
from seap_export.model.sources.config import read_spec
from seap_export.pruning.rounding.grid import BlockQuantization

#: The folder of the graph, in which transformers.js looks for it.
ONNX_FOLDER = "onnx"


def folder_damages(model_folder: Path, folder: Path, precision: str, grid: BlockQuantization | None) -> Iterator[str]:
    """Finds what is wrong with a written folder, a line each; see `Format.damages` and `precision_of`."""
    wanted = precision_of(precision, grid)
    try:
        yield from _wrong_graph(model_folder, folder / ONNX_FOLDER / file_name(precision), precision, wanted)
    except ArtifactError as error:
        yield str(error)
    shapes = shape_graph(read_spec(model_folder), wanted)
    chunks = 1 + max(slot.chunk for slot in data_slots(shapes))
    yield from file_differences(folder, web_files(model_folder, precision, chunks))


def _wrong_graph(model_folder: Path, path: Path, precision: str, wanted: Precision) -> Iterator[str]:
    stored = read_form(path).precision
    if stored != wanted:
        yield f"{path}: it was written as {stored.name} and not as {precision}; export again"
        return
    spec = read_spec(model_folder)
    expected = web_graph(spec, open_weights(model_folder, spec, wanted), wanted, read_scaling(path))
    files = {slot.name: data_name(path.name, slot.chunk) for slot in data_slots(expected)}
    yield from graph_differences(expected, path, files)
