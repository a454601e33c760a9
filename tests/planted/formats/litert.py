"""Bundles for LiteRT-LM: their header and sections, the program's operators, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject
from planted.kinds import Kind
from support.formats.written import WrittenModel
from support.product import LITERT_BUNDLE as BUNDLE

from converters.litert.bundle import METADATA, PROGRAM, TOKENIZER, Bundle, Section, header, model_sections
from converters.litert.packages import require, schema
from converters.litert.program import ALIGNMENT, packed
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


def _bundled(path: Any, parts: Mapping[str, bytes], sections: Callable[[list[Section]], list[Section]]) -> None:
    """Writes a bundle of these sections."""
    told = sections(model_sections({kind: len(part) for kind, part in parts.items()}))
    head, starts = header(told)
    content = bytearray(starts[-1] + told[-1].size)
    content[: len(head)] = head
    for section, start in zip(told, starts, strict=True):
        content[start : start + section.size] = parts[section.kind][: section.size]
    path.write_bytes(bytes(content))


def _sections(
    change: Callable[[dict[str, bytes]], object], told: Callable[[list[Section]], list[Section]] = lambda told: told
) -> Plant:
    """Changes the sections of a bundle, and perhaps what its header says of them."""

    def plant(made: WrittenModel) -> None:
        bundle = Bundle(made.folder)
        parts = {kind: bundle.section(kind) for kind in (METADATA, TOKENIZER, PROGRAM)}
        change(parts)
        _bundled(made.folder / BUNDLE, parts, told)

    return plant


def program(change: Callable[[Any], object]) -> Plant:
    """Changes the program, a `ModelT`, which keeps the numbers of its weights."""

    def edit(parts: dict[str, bytes]) -> None:
        data = parts[PROGRAM]
        model = schema().ModelT.InitFromPackedBuf(data, 0)
        change(model)
        outside = [buffer for buffer in model.buffers if buffer.offset > 1]
        places = [(buffer.offset, buffer.size) for buffer in outside]
        end = len(packed(model))
        for buffer in outside:
            buffer.offset = -(-end // ALIGNMENT) * ALIGNMENT
            end = buffer.offset + buffer.size
        whole, flatbuffer = bytearray(end), packed(model)
        whole[: len(flatbuffer)] = flatbuffer
        for buffer, (start, size) in zip(outside, places, strict=True):
            whole[buffer.offset : buffer.offset + size] = data[start : start + size]
        parts[PROGRAM] = bytes(whole)

    return _sections(edit)


def _operators(model: Any, name: str, graph: int = 0) -> list[Any]:
    """The operators of a kind in a subgraph."""
    code = getattr(schema().BuiltinOperator, name)
    indices = {index for index, one in enumerate(model.operatorCodes) if one.builtinCode == code}
    return [one for one in model.subgraphs[graph].operators if one.opcodeIndex in indices]


def _tensor(model: Any, name: str, graph: int = 0) -> int:
    tensors = model.subgraphs[graph].tensors
    return next(index for index, tensor in enumerate(tensors) if tensor.name.decode() == name)


def _options(name: str, index: int = 0, graph: int = 0, **values: Any) -> Plant:
    """Changes the options of an operator."""

    def change(model: Any) -> None:
        options = _operators(model, name, graph)[index].builtinOptions
        for key, value in values.items():
            assert getattr(options, key) != value
            setattr(options, key, value)

    return program(change)


def _read(name: str, index: int, port: int, tensor: str, graph: int = 0) -> Plant:
    """An operator reads another tensor."""

    def change(model: Any) -> None:
        operator = _operators(model, name, graph)[index]
        inputs = list(operator.inputs)
        inputs[port] = _tensor(model, tensor, graph)
        assert inputs != list(operator.inputs)
        operator.inputs = inputs

    return program(change)


def _number(value: float, other: float) -> Plant:
    """Changes a constant that is this number."""

    def change(model: Any) -> None:
        old, new = (np.float32(number).tobytes() for number in (value, other))
        found = [one for one in model.buffers if one.data is not None and bytes(one.data) == old]
        assert found
        found[0].data = np.frombuffer(new, np.uint8)

    return program(change)


def _told(change: Callable[[Any], object]) -> Plant:
    """Changes the metadata of the model."""

    def edit(parts: dict[str, bytes]) -> None:
        message = require("litert_lm_builder.runtime.proto.llm_metadata_pb2").LlmMetadata.FromString(parts[METADATA])
        change(message)
        parts[METADATA] = message.SerializeToString(deterministic=True)

    return _sections(edit)


def _stop(message: Any) -> None:
    message.stop_tokens.add().token_ids.ids.append(40)


def _twice(told: list[Section]) -> list[Section]:
    """Two programs, of which the first one is cut off; LiteRT-LM and we may take another one each."""
    return [*told[:-1], replace(told[-1], size=64), told[-1]]


_UP = names.weight("up_proj", 1)


def _weight(model: Any) -> Any:
    return model.subgraphs[0].tensors[_tensor(model, _UP)]


def _quantised(model: Any, **values: Any) -> None:
    for key, value in values.items():
        setattr(_weight(model).quantization, key, value)


_OWN: tuple[tuple[Kind, str, str, Plant], ...] = (
    ("constant", "fp32", "another bound of logits", _number(8.0, 9.0)),
    ("wiring", "int8", "a matrix of another layer", _read("FULLY_CONNECTED", 1, 1, names.weight("q_proj", 1))),
    ("attribute", "int8", "a sharper softmax", _options("SOFTMAX", 1, beta=2.0)),
    ("bits", "int8", "activations are not rounded", _options("FULLY_CONNECTED", 4, asymmetricQuantizeInputs=False)),
    ("scale", "int8", "scales along another axis", program(lambda model: _quantised(model, quantizedDimension=1))),
    ("metadata", "int8", "a note of the program", program(lambda model: setattr(model, "description", b"foreign"))),
    ("metadata", "int8", "a further end token", _told(_stop)),
    (
        "tokenizer",
        "tied",
        "another chat template",
        _told(lambda message: setattr(message, "jinja_prompt_template", "user: buy")),
    ),
    ("file", "int8", "two programs", _sections(lambda parts: None, _twice)),
)


SUBJECT = Subject(
    "litert",
    {
        "fp32": Base("gemma2-all", "fp32"),
        "int8": Base("qwen3-biases", "int8"),
        "tied": Base("granite-all", "int8"),
    },
    _open,
    _holds,
    BUNDLE,
    tuple(FormatFault(kind, f"{base}: {id}", base, plant, (DAMAGE,)) for kind, base, id, plant in _OWN),
)
