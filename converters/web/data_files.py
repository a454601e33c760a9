"""Writes a graph with its weights in data files, named and divided as transformers.js looks for them.

The data of `model_q4.onnx` are in `model_q4.onnx_data`, then `model_q4.onnx_data_1` and so on. A browser reads each
into one array, so none may be larger than what a browser holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from converters.onnx.weights.weights import INLINE_BYTES
from converters.progress import LayerProgress

#: The most bytes of a data file: browsers' arrays have ended at 2^31 - 1 bytes.
CHUNK_BYTES = 2_000_000_000
#: ONNX Runtime reads tensors from aligned offsets without a copy.
_ALIGNMENT = 64


@dataclass(frozen=True)
class DataSlot:
    """Where a tensor is stored: `length` bytes from `offset` on in that file."""

    name: str
    chunk: int
    offset: int
    length: int


def data_name(graph_name: str, chunk: int) -> str:
    """The name of a data file of the graph `graph_name`, such as "model_q4.onnx"."""
    return f"{graph_name}_data" + (f"_{chunk}" if chunk else "")


def data_slots(model: ir.Model) -> Iterator[DataSlot]:
    """Where each tensor that is not stored in the graph itself goes, in the order of the graph.

    A tensor of more than `CHUNK_BYTES` has a file to itself.
    """
    chunk = end = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE_BYTES:
            continue
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if end and offset + tensor.nbytes > CHUNK_BYTES:
            chunk, offset = chunk + 1, 0
        end = offset + tensor.nbytes
        yield DataSlot(name, chunk, offset, tensor.nbytes)


def write_graph(model: ir.Model, path: Path, on_layer: Callable[[int], None]) -> None:
    """Writes a graph and its data files, one tensor at a time."""
    slots = list(data_slots(model))
    progress = LayerProgress([slot.name for slot in slots], on_layer)
    for chunk, in_chunk in groupby(slots, attrgetter("chunk")):
        with (path.parent / data_name(path.name, chunk)).open("xb") as file:
            for slot in in_chunk:
                _write(model.graph.initializers[slot.name], slot, path, file)
                progress.add(slot.name)
    ir.save(model, path)


def _write(value: ir.Value, slot: DataSlot, path: Path, file: BinaryIO) -> None:
    tensor = value.const_value
    assert tensor is not None
    file.write(bytes(slot.offset - file.tell()))
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
    value.const_value = ir.ExternalTensor(
        data_name(path.name, slot.chunk),
        slot.offset,
        slot.length,
        tensor.dtype,
        name=slot.name,
        shape=ir.Shape(tensor.shape.numpy()),
        base_dir=path.parent,
    )
