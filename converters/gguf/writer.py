"""Writes a model folder as one GGUF file, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType

from converters.gguf.encoding import encode
from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.metadata import Metadata, Value
from converters.gguf.modelfile import modelfile
from converters.gguf.rows import rows_of
from converters.gguf.tokenizer.vocabulary import tokenizer_metadata
from converters.gguf.types import bytes_of
from converters.small_files import Content, write_files
from converters.whole import whole_or_nothing
from seap_export.common.llama_library import llama_library
from seap_export.model.sources.stored import PlainReader
from seap_export.model.sources.weights import SafetensorsReader, WeightReader

_TYPES: dict[type, GGUFValueType] = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
    list: GGUFValueType.ARRAY,
}


def write_gguf(
    model_folder: Path, out_folder: Path, plan: FilePlan, on_layer: Callable[[int], None] | None = None
) -> None:
    """Writes a dense or pruned model as `model.gguf` and a `Modelfile` for Ollama; see `Format.write`.

    With K-quants, the same release of llama.cpp gives the same bytes; without its library they are not written.
    """
    metadata = whole_metadata(plan, model_folder)
    if plan.needs_library():
        llama_library()
    reader = PlainReader(SafetensorsReader(model_folder), plan.spec)
    # the writer is closed first: what the disk has no room for is written once more then
    with whole_or_nothing(out_folder), closing(gguf.GGUFWriter(None, plan.architecture.name)) as writer:
        write_files(out_folder, other_files(model_folder, plan))
        write_header(writer, out_folder / MODEL_FILE, plan, metadata)
        _write_tensors(writer.fout[0], plan, reader, on_layer)


def whole_metadata(plan: FilePlan, model_folder: Path) -> Metadata:
    """All metadata of a model's file but `general.architecture`."""
    return {**plan.metadata, **tokenizer_metadata(model_folder, plan.spec)}


def other_files(model_folder: Path, plan: FilePlan) -> dict[str, Content]:
    """The files that are written beside the model's, by name: the Modelfile."""
    return {"Modelfile": modelfile(model_folder, plan.spec, MODEL_FILE).encode("utf-8")}


def write_header(writer: Any, path: Path, plan: FilePlan, metadata: Metadata) -> None:
    """Writes what comes before the tensors of a file with `whole_metadata`, with a `gguf.GGUFWriter`."""
    for key, value in metadata.items():
        writer.add_key_value(key, value, _TYPES[type(value)], _item_type(value))
    for name, factors in plan.rope_tensors.items():
        writer.add_tensor_info(name, factors.shape, factors.dtype, factors.nbytes)
    for tensor in plan.tensors:
        kind = plan.kind(tensor)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), bytes_of(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _item_type(value: Value) -> GGUFValueType | None:
    """The type of a list's items, which an empty list does not show."""
    if not isinstance(value, list):
        return None
    kind = type(value[0]) if value else str
    return GGUFValueType.INT32 if kind is int else _TYPES[kind]


def _write_tensors(file: Any, plan: FilePlan, reader: WeightReader, on_layer: Callable[[int], None] | None) -> None:
    _pad(file)
    for factors in plan.rope_tensors.values():
        file.write(factors.tobytes())
        _pad(file)
    for index, tensor in enumerate(plan.tensors):
        kind = plan.kind(tensor)
        for rows in rows_of(tensor, kind, reader):
            file.write(encode(rows, kind).tobytes())
        _pad(file)
        following = [other.layer for other in plan.tensors[index + 1 : index + 2]]
        if on_layer is not None and tensor.layer is not None and following != [tensor.layer]:
            on_layer(tensor.layer)
    file.flush()


def _pad(file: Any) -> None:
    file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
