"""Bundles for LiteRT-LM: their header, and the program's tensors and note."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Subject, replaced
from support.formats.written import WrittenModel
from support.product import LITERT_BUNDLE as BUNDLE

from converters.litert.bundle import METADATA, PROGRAM, TOKENIZER, Bundle, header, model_sections
from converters.litert.packages import schema
from converters.litert.stored_program import StoredProgram
from seap_export.model.families import names


def _holds(base: Base, name: str) -> frozenset[str]:
    is_rounded = base.precision == "int8" and len(base.spec.tensors()[name]) == 2 and name != names.tensor("positions")
    return frozenset({"levels", "points"} if is_rounded else {"float"})


def _open(made: WrittenModel, name: str) -> Parts:
    """The numbers behind the flatbuffer, and the scales and zero points in it."""
    bundle, path = Bundle(made.folder), made.folder / BUNDLE
    entry, start = StoredProgram(bundle)._entries[name], bundle.span(PROGRAM).start
    parts = {"numbers": np.memmap(path, entry.dtype, "r+", start + entry.offset, entry.shape)}
    graph = schema().Model.GetRootAs(bundle.data, start).Subgraphs(0)
    tensors = (graph.Tensors(index) for index in range(graph.TensorsLength()))
    how = next(tensor for tensor in tensors if tensor.Name().decode() == name).Quantization()
    if how is not None:
        first = np.frombuffer(bundle.data, np.uint8).ctypes.data
        for part, numbers in (("scales", how.ScaleAsNumpy()), ("points", how.ZeroPointAsNumpy())):
            parts[part] = np.memmap(path, numbers.dtype, "r+", numbers.ctypes.data - first, numbers.shape)
    return parts


def _two_programs(made: WrittenModel) -> None:
    """Of which the first one is cut off; LiteRT-LM and we may take another one each."""
    bundle = Bundle(made.folder)
    parts = {kind: bundle.section(kind) for kind in (METADATA, TOKENIZER, PROGRAM)}
    *others, program = model_sections({kind: len(part) for kind, part in parts.items()})
    told = [*others, replace(program, size=64), program]
    head, starts = header(told)
    content = bytearray(starts[-1] + program.size)
    content[: len(head)] = head
    for section, start in zip(told, starts, strict=True):
        content[start : start + section.size] = parts[section.kind][: section.size]
    (made.folder / BUNDLE).write_bytes(bytes(content))


_AUTHOR = replaced(BUNDLE, "seap-export", "foreign-one")
SUBJECT = Subject(
    "litert",
    {
        "int8": Base("qwen3-biases", "int8"),
        "tied": Base("granite-all", "int8"),
        "fp32": Base("gemma2-all", "fp32"),
    },
    _open,
    _holds,
    BUNDLE,
    (
        FormatFault("file", "int8: two programs", "int8", _two_programs, (DAMAGE,)),
        FormatFault("metadata", "int8: another author", "int8", _AUTHOR, (DAMAGE,)),
    ),
)
