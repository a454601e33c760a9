"""GGUF files: their tensors, metadata and header, and the Modelfile beside them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from planted.formats.files import file_plant
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject
from planted.kinds import Kind as FaultKind
from support.formats.written import WrittenModel
from support.product import read_header

from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.layout import FileTensor
from converters.gguf.writer import _TYPES, _item_type

_BLOCKS: dict[Kind, np.dtype[Any]] = {
    Kind.F32: np.dtype("<f4"),
    Kind.F16: np.dtype("<f2"),
    Kind.Q8_0: np.dtype([("scales", "<f2"), ("numbers", "u1", 32)]),
    Kind.Q4_0: np.dtype([("scales", "<f2"), ("numbers", "u1", 16)]),
}


def _plan(base: Base) -> FilePlan:
    return FilePlan.of(base.spec, base.precision)


def _tensor_of(plan: FilePlan, name: str) -> FileTensor:
    return next(tensor for tensor in plan.tensors if any(part.plain == name for part in tensor.parts))


def _holds(base: Base, name: str) -> frozenset[str]:
    plan = _plan(base)
    return frozenset({"float" if plan.kind(_tensor_of(plan, name)) in (Kind.F32, Kind.F16) else "levels"})


def _open(made: WrittenModel, name: str) -> Parts:
    path = made.folder / MODEL_FILE
    tensor = _tensor_of(FilePlan.of(made.spec, made.format.precision), name)
    stored = read_header(path)[1][tensor.name]
    dtype = _BLOCKS[stored.kind]
    shape = (tensor.rows,) if len(tensor.shape) == 1 else (tensor.rows, stored.size // tensor.rows // dtype.itemsize)
    mapped = np.memmap(path, dtype, "r+", stored.offset, shape)
    return {name: mapped[name] for name in dtype.names} if dtype.names else {"numbers": mapped}


def _number(key: str, value: float, kind: str = "<I") -> Plant:
    """Sets a number among the metadata, in place."""

    def edit(data: bytes) -> bytes:
        offset = data.index(key.encode()) + len(key) + 4
        packed = struct.pack(kind, value)
        return data[:offset] + packed + data[offset + len(packed) :]

    return file_plant(MODEL_FILE, edit)


def rewritten(
    change: Callable[[dict[str, Any], dict[str, Any]], object], types: dict[str, gguf.GGUFValueType] | None = None
) -> Plant:
    """Writes the file again with other metadata, or other tensors: kind, shape and bytes of each by name."""

    def plant(made: WrittenModel) -> None:
        path, kinds = made.folder / MODEL_FILE, types or {}
        stored, entries = read_header(path)
        data = path.read_bytes()
        metadata = dict(stored)
        tensors = {
            name: (one.kind, one.shape, data[one.offset : one.offset + one.size]) for name, one in entries.items()
        }
        change(metadata, tensors)
        with closing(gguf.GGUFWriter(None, metadata.pop("general.architecture"))) as writer:
            for key, value in metadata.items():
                writer.add_key_value(key, value, kinds.get(key, _TYPES[type(value)]), _item_type(value))
            for name, (kind, shape, content) in tensors.items():
                writer.add_tensor_info(name, shape, np.dtype(np.float32), len(content), raw_dtype=kind)
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            file = writer.fout[0]
            for _, _, content in tensors.values():
                file.write(bytes(-file.tell() % 32) + content)
            file.write(bytes(-file.tell() % 32))

    return plant


def _metadata(**values: Any) -> Plant:
    """Adds or changes metadata; a double underscore stands for a dot, and None takes them away."""

    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name, value in values.items():
            key = name.replace("__", ".")
            metadata.pop(key, None) if value is None else metadata.update({key: value})

    return rewritten(change)


def _of_list(key: str, change: Callable[[list[Any]], object]) -> Plant:
    return rewritten(lambda metadata, tensors: change(metadata[key]))


def _extra_bias(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    """llama.cpp adds a bias to a projection wherever the file has one."""
    rows = tensors["blk.0.attn_q.weight"][1][0]
    tensors["blk.0.attn_q.bias"] = (Kind.F32, (rows,), np.ones(rows, np.float32).tobytes())


def _last_first(tensors: dict[str, Any]) -> None:
    name = list(tensors)[-1]
    first = {name: tensors.pop(name)}
    rest = dict(tensors)
    tensors.clear()
    tensors.update(first | rest)


def _other_order(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    _last_first(tensors)


def _in_float32(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    name = "blk.1.ffn_up.weight"
    kind, shape, data = tensors[name]
    values = gguf.quants.dequantize(np.frombuffer(data, np.uint8).reshape(shape[0], -1), kind)
    tensors[name] = (Kind.F32, shape, values.astype(np.float32).tobytes())


def _modelfile(before: str, after: str) -> Plant:
    def edit(content: bytes) -> bytes:
        assert before.encode() in content
        return content.replace(before.encode(), after.encode(), 1)

    return file_plant("Modelfile", edit)


#: By artifact.
_DAMAGES: tuple[tuple[FaultKind, str, str, Plant], ...] = (
    ("metadata", "f32", "another epsilon", _number("deci.attention.layer_norm_rms_epsilon", 1e-4, "<f")),
    ("file", "f32", "tensors in another order", rewritten(_other_order)),
    ("weight", "q8_0", "a bias that the model lacks", rewritten(_extra_bias)),
    ("bits", "q4_0", "a tensor in float32", rewritten(_in_float32)),
    ("tokenizer", "q8_0", "BOS is put before texts", _metadata(tokenizer__ggml__add_bos_token=True)),
    (
        "tokenizer",
        "q4_0",
        "a token",
        _of_list("tokenizer.ggml.tokens", lambda tokens: tokens.__setitem__(40, "foreign")),
    ),
    (
        "file",
        "q4_0",
        "the Modelfile has a system prompt",
        _modelfile("PARAMETER num_ctx", 'SYSTEM "buy"\nPARAMETER num_ctx'),
    ),
)
SUBJECT = Subject(
    "gguf",
    {
        "f32": Base("llama-llama3", "f32", more={"attention_bias": True}),
        "f16": Base("gemma2-all", "f16", is_pruned=False, more={"attention_bias": False, "query_pre_attn_scalar": 16}),
        "q8_0": Base("mixtral", "q8_0", is_pruned=False),
        "q4_0": Base("granite-all", "q4_0", is_pruned=False, more={"attention_bias": False}),
    },
    _open,
    _holds,
    MODEL_FILE,
    (*(FormatFault(kind, f"{base}: {id}", base, plant, (DAMAGE,)) for kind, base, id, plant in _DAMAGES),),
)
