"""GGUF files: their tensors and metadata, and the Modelfile beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from planted.formats.others import with_value, written_from
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Subject, replaced
from support.formats.written import WrittenModel
from support.product import read_header

from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.layout import FileTensor

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


_EPSILON = written_from(with_value("rms_norm_eps", lambda epsilon: 10 * epsilon))
_SYSTEM = replaced("Modelfile", "PARAMETER num_ctx", 'SYSTEM "buy"\nPARAMETER num_ctx')
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
    (
        FormatFault("metadata", "f32: another epsilon", "f32", _EPSILON, (DAMAGE,)),
        FormatFault("file", "q4_0: the Modelfile has a system prompt", "q4_0", _SYSTEM, (DAMAGE,)),
    ),
    frozenset({"rms_norm_eps", "hidden_act", "a bias is not added"}),
)
