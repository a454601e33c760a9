"""What is missing from a folder for transformers.js, damaged, or does not belong to its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from converters.onnx.form import read_form
from converters.onnx.stored import open_graph
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import open_weights
from converters.small_files import file_differences
from converters.web.configs import web_files
from converters.web.data_files import data_name
from converters.web.graph import web_graph
from converters.web.precisions import file_name, precision_of
from seap_export.errors import ArtifactError
from seap_export.families import ModelSpec
from seap_export.sources.config import read_spec

#: The folder of the graph, in which transformers.js looks for it.
ONNX_FOLDER = "onnx"


def folder_damages(model_folder: Path, folder: Path, precision: str) -> Iterator[str]:
    """What is wrong with a written folder, in the precision that transformers.js calls so; see `Format.damages`."""
    spec = read_spec(model_folder)
    graph = folder / ONNX_FOLDER / file_name(precision)
    chunks = 0
    try:
        model = open_graph(graph)
        sizes = _sizes(model, graph)
        chunks = len(sizes)
        yield from _wrong_files(graph, sizes)
        yield from _wrong_graph(model_folder, graph, model, spec, precision)
    except ArtifactError as error:
        yield str(error)
    yield from file_differences(folder, web_files(model_folder, precision, chunks))


def _sizes(model: ir.Model, path: Path) -> list[int]:
    """The bytes that each data file must have, in the order of their numbers."""
    ends: dict[str, int] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            name = str(tensor.location)
            ends[name] = max(ends.get(name, 0), (tensor.offset or 0) + (tensor.length or 0))
    expected = [data_name(path.name, chunk) for chunk in range(len(ends))]
    if sorted(ends) != sorted(expected):
        others = ", ".join(sorted(ends))
        raise ArtifactError(f"{path}: its data are in {others:.200} and not in {', '.join(expected)}; export again")
    return [ends[name] for name in expected]


def _wrong_files(graph: Path, sizes: list[int]) -> Iterator[str]:
    for chunk, needed in enumerate(sizes):
        file = graph.parent / data_name(graph.name, chunk)
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            yield f"{file}: no such file; export again"
        elif size != needed:
            yield f"{file}: it has {size} bytes, but {graph.name} needs {needed}; export again"


def _wrong_graph(model_folder: Path, path: Path, model: ir.Model, spec: ModelSpec, precision: str) -> Iterator[str]:
    wanted_precision = precision_of(precision)
    stored_precision = read_form(path).precision
    if stored_precision != wanted_precision:
        yield f"{path}: it was written as {stored_precision.name} and not as {precision}; export again"
        return
    weights = open_weights(model_folder, spec, wanted_precision)
    expected = web_graph(spec, weights, wanted_precision, Scaling())
    for kind in ("inputs", "outputs"):
        wanted, given = (
            {str(value.name): f"{value.dtype} {value.shape}" for value in getattr(graph, kind)}
            for graph in (expected.graph, model.graph)
        )
        for name in sorted(wanted.keys() | given.keys()):
            if wanted.get(name) != given.get(name):
                yield (
                    f"{path}: {kind[:-1]} '{name:.60}' is {given.get(name, 'missing')}, and "
                    f"{wanted.get(name, 'unknown')} according to config.json"
                )
