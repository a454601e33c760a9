"""IRs of OpenVINO: the text of the graph, and the words of the tokenizer's."""

from __future__ import annotations

import numpy as np
from planted.fault import Kind
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Subject, replaced
from support.formats.written import WrittenModel
from support.product import OPENVINO_MODEL as MODEL_FILE

from converters.openvino.ir_file import DATA_FILE, read_ir
from converters.openvino.stored_tensor import storage_of
from seap_export.model.families import names

_DTYPES = {"f32": "<f4", "f16": "<f2", "i8": "u1", "i4": "u1"}


def _holds(base: Base, name: str) -> frozenset[str]:
    shape = base.spec.tensors()[name]
    is_rounded = len(shape) == 2 and storage_of(base.precision).rounding_of(name, shape[1]) is not None
    return frozenset({"levels" if is_rounded else "float"})


def _open(made: WrittenModel, name: str) -> Parts:
    """The rows of a projection in the constant that holds queries, keys and values."""
    ir, shapes, joined, rows = read_ir(made.folder), made.spec.tensors(), name, slice(None)
    layer = names.layer_of(name)
    qkv = [name.replace(f"{part}_proj", "qkv_proj") for part in "qkv" if f".{part}_proj." in name]
    if layer is not None and qkv:
        (joined,) = qkv
        counts = [shapes[joined.replace("qkv_proj", f"{part}_proj")][0] for part in "qkv"]
        index = next(index for index, part in enumerate("qkv") if f".{part}_proj." in name)
        rows = slice(sum(counts[:index]), sum(counts[: index + 1]))
    parts = {}
    for part, stored in (("numbers", joined), ("scales", f"{joined}.scale")):
        constant = ir.constants.get(stored)
        if constant is not None:
            dtype = np.dtype(_DTYPES[constant.element_type])
            count = constant.shape[0]
            shape = (count,) if len(constant.shape) == 1 else (count, constant.size // count // dtype.itemsize)
            parts[part] = np.memmap(ir.data_file, dtype, "r+", constant.offset, shape)[rows]
    return parts


#: Kind, artifact, and what is replaced by what in the graph.
_TEXTS: tuple[tuple[Kind, str, str, str], ...] = (
    ("attribute", "fp32", 'causal="false"', 'causal="true"'),
    ("wiring", "int8", 'type="Multiply"', 'type="Add"'),
    ("bits", "int4", 'destination_type="f16"', 'destination_type="bf16"'),
    ("bits", "int8", 'element_type="i8"', 'element_type="u8"'),
    ("metadata", "fp16", "<openvino_version", '<runtime_options value="KV_CACHE_PRECISION=u8" /><openvino_version'),
)
_WORDS = replaced("openvino_tokenizer.bin", "cat", "cow")


SUBJECT = Subject(
    "openvino",
    {
        "fp32": Base("llama-biases", "fp32"),
        "fp16": Base("gemma3-all", "fp16"),
        "int8": Base("qwen3-biases", "int8"),
        "int4": Base("granite-all", "int4"),
    },
    _open,
    _holds,
    DATA_FILE,
    (
        *(
            FormatFault(kind, f"{base}: {after} for {before}", base, replaced(MODEL_FILE, before, after), (DAMAGE,))
            for kind, base, before, after in _TEXTS
        ),
        FormatFault("tokenizer", "fp32: words of the tokenizer", "fp32", _WORDS, (DAMAGE,)),
    ),
)
