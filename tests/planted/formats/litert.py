"""Bundles for LiteRT-LM: their header and sections, the program's operators, and the tokenizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from planted.formats.files import file_plant
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject
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


def _swapped_inputs(name: str, index: int) -> Plant:
    return program(lambda model: setattr(one := _operators(model, name)[index], "inputs", list(one.inputs)[::-1]))


def _number(value: float, other: float) -> Plant:
    """Changes a constant that is this number."""

    def change(model: Any) -> None:
        old, new = (np.float32(number).tobytes() for number in (value, other))
        found = [one for one in model.buffers if one.data is not None and bytes(one.data) == old]
        assert found
        found[0].data = np.frombuffer(new, np.uint8)

    return program(change)


def _frequencies(model: Any) -> None:
    """The largest constant of floats that begins with 1, which is the first frequency."""
    one = np.float32(1).tobytes()
    found = [buffer for buffer in model.buffers if buffer.data is not None and bytes(buffer.data[:4]) == one]
    longest = max(found, key=lambda buffer: len(buffer.data))
    longest.data = (np.frombuffer(bytes(longest.data), np.float32) * np.float32(0.5)).view(np.uint8)


def _lowered_token(model: Any) -> None:
    """Adds a constant to the logits that makes one token impossible."""
    made, graph = schema(), model.subgraphs[0]
    logits = next(one for one in model.signatureDefs[0].outputs if one.name.decode() == "logits")
    tensor = graph.tensors[logits.tensorIndex]
    lowered = np.zeros(tensor.shape[-1], np.float32)
    lowered[40] = -1e4
    model.buffers.append(made.BufferT(data=lowered.view(np.uint8)))
    constant, result = made.TensorT(), made.TensorT()
    constant.name, constant.shape, constant.buffer = b"lowered", [len(lowered)], len(model.buffers) - 1
    result.name, result.shape, result.buffer = b"lowering", list(tensor.shape), 0
    graph.tensors += [constant, result]
    node, count = made.OperatorT(), len(graph.tensors)
    node.opcodeIndex = _operators(model, "ADD")[0].opcodeIndex
    node.inputs, node.outputs = [logits.tensorIndex, count - 2], [count - 1]
    node.builtinOptionsType, node.builtinOptions = made.BuiltinOptions.AddOptions, made.AddOptionsT()
    graph.operators.append(node)
    graph.outputs = [count - 1 if index == logits.tensorIndex else index for index in graph.outputs]
    logits.tensorIndex = count - 1


def _caches_swapped(model: Any) -> None:
    names_of = {one.name: one for one in model.signatureDefs[0].inputs}
    one, other = names_of[b"kv_cache_k_1"], names_of[b"kv_cache_v_1"]
    one.tensorIndex, other.tensorIndex = other.tensorIndex, one.tensorIndex


def _one_left_out(model: Any) -> None:
    """The last residual sum gives what it reads."""
    graph = model.subgraphs[0]
    last = _operators(model, "ADD")[-2]
    graph.operators.remove(last)
    for operator in graph.operators:
        operator.inputs = [last.inputs[0] if index == last.outputs[0] else index for index in operator.inputs]


def _code(before: str, after: str) -> Plant:
    """All operators of a kind become others."""

    def change(model: Any) -> None:
        kinds = schema().BuiltinOperator
        one = next(one for one in model.operatorCodes if one.builtinCode == getattr(kinds, before))
        one.builtinCode = one.deprecatedBuiltinCode = getattr(kinds, after)

    return program(change)


def _signature(model: Any) -> None:
    model.signatureDefs[1].signatureKey = b"prefill_17"


def _graphs_swapped(model: Any) -> None:
    one, other = model.signatureDefs[1:3]
    one.subgraphIndex, other.subgraphIndex = other.subgraphIndex, one.subgraphIndex


def _told(change: Callable[[Any], object]) -> Plant:
    """Changes the metadata of the model."""

    def edit(parts: dict[str, bytes]) -> None:
        message = require("litert_lm_builder.runtime.proto.llm_metadata_pb2").LlmMetadata.FromString(parts[METADATA])
        change(message)
        parts[METADATA] = message.SerializeToString(deterministic=True)

    return _sections(edit)


def _tokenizer(change: Callable[[bytes], bytes]) -> Plant:
    def edit(parts: dict[str, bytes]) -> None:
        text = change(zlib.decompress(parts[TOKENIZER][8:]))
        parts[TOKENIZER] = len(text).to_bytes(8, "little") + zlib.compress(text)

    return _sections(edit)


def _longer(parts: dict[str, bytes]) -> None:
    """LiteRT-LM takes the memory that the section says it needs."""
    parts[TOKENIZER] = (1 << 40).to_bytes(8, "little") + parts[TOKENIZER][8:]


def _more(parts: dict[str, bytes]) -> None:
    parts[TOKENIZER] += b"more"


def _stop(message: Any) -> None:
    message.stop_tokens.add().token_ids.ids.append(40)


def _items(told: list[Section]) -> list[Section]:
    return [*told[:-1], replace(told[-1], items={"model_type": "tf_lite_embedder"})]


def _twice(told: list[Section]) -> list[Section]:
    """Two programs, of which the first one is cut off; LiteRT-LM and we may take another one each."""
    return [*told[:-1], replace(told[-1], size=64), told[-1]]


_UP = names.weight("up_proj", 1)


def _weight(model: Any) -> Any:
    return model.subgraphs[0].tensors[_tensor(model, _UP)]


def _transposed(model: Any) -> None:
    _weight(model).shape = list(_weight(model).shape)[::-1]


def _quantised(model: Any, **values: Any) -> None:
    for key, value in values.items():
        setattr(_weight(model).quantization, key, value)


_OWN: tuple[tuple[str, str, Plant], ...] = (
    ("fp32", "another epsilon", _number(1e-5, 1e-3)),
    ("fp32", "another bound of logits", _number(8.0, 9.0)),
    ("int8", "another scale of attention", _number(0.25, 0.3)),
    ("int8", "other frequencies of the rotation", program(_frequencies)),
    ("fp32", "another bias", _read("FULLY_CONNECTED", 3, 2, names.bias("v_proj", 0))),
    ("int8", "a matrix of another layer", _read("FULLY_CONNECTED", 1, 1, names.weight("q_proj", 1))),
    ("int8", "a norm of another layer", _read("MUL", 2, 1, names.tensor("input_layernorm", 1))),
    ("tied", "operands of a difference swapped", _swapped_inputs("BATCH_MATMUL", 0)),
    ("fp32", "scores with keys not transposed", _options("BATCH_MATMUL", adjY=False)),
    ("int8", "a sharper softmax", _options("SOFTMAX", 1, beta=2.0)),
    ("int8", "activations are not rounded", _options("FULLY_CONNECTED", 4, asymmetricQuantizeInputs=False)),
    ("fp32", "another GELU", _options("GELU", approximate=False)),
    ("fp32", "a sum is cut off at zero", _options("ADD", 5, fusedActivationFunction=1)),
    ("int8", "only the prompt's sums are cut off", _options("ADD", 5, 1, fusedActivationFunction=1)),
    ("int8", "another activation", _code("LOGISTIC", "TANH")),
    ("int8", "sines for cosines", _code("SIN", "COS")),
    ("int8", "an older kernel", program(lambda model: setattr(model.operatorCodes[0], "version", 7))),
    ("int8", "the logits of one token are lowered", program(_lowered_token)),
    ("fp32", "the same in float32", program(_lowered_token)),
    ("tied", "the same where the head is the embedding", program(_lowered_token)),
    ("int8", "keys and values of a cache swapped", program(_caches_swapped)),
    ("fp32", "a layer adds nothing", program(_one_left_out)),
    ("int8", "another name of a signature", program(_signature)),
    ("int8", "signatures of other graphs", program(_graphs_swapped)),
    ("int8", "a further signature", program(lambda model: model.signatureDefs.append(model.signatureDefs[0]))),
    ("int8", "a further graph", program(lambda model: model.subgraphs.append(model.subgraphs[0]))),
    ("int8", "scales along another axis", program(lambda model: _quantised(model, quantizedDimension=1))),
    ("int8", "scales of a larger range", program(lambda model: _quantised(model, max=[1.0]))),
    ("fp32", "a weight of another type", program(lambda model: setattr(_weight(model), "type", 1))),
    ("fp32", "a weight of another name", program(lambda model: setattr(_weight(model), "name", b"other"))),
    ("fp32", "a weight of another shape", program(_transposed)),
    ("int8", "a note of the program", program(lambda model: setattr(model, "description", b"foreign"))),
    ("int8", "a further end token", _told(_stop)),
    ("int8", "no end token", _told(lambda message: message.ClearField("stop_tokens"))),
    ("fp32", "a start token", _told(lambda message: message.start_token.token_ids.ids.append(1))),
    ("tied", "another chat template", _told(lambda message: setattr(message, "jinja_prompt_template", "user: buy"))),
    ("fp32", "a longer context", _told(lambda message: setattr(message, "max_num_tokens", 4096))),
    ("tied", "another kind of model", _told(lambda message: message.llm_model_type.gemma3.SetInParent())),
    ("int8", "a token of another text", _tokenizer(lambda text: text.replace(b'"<pad>"', b'"<PAD>"'))),
    ("fp32", "a tokenizer with more behind it", _sections(_more)),
    ("tied", "another size of the tokenizer", _sections(_longer)),
    ("int8", "another kind of program", _sections(lambda parts: None, _items)),
    ("int8", "two programs", _sections(lambda parts: None, _twice)),
    ("int8", "no tokenizer", _sections(lambda parts: None, lambda told: [told[0], told[2]])),
    ("fp32", "sections in another order", _sections(lambda parts: None, lambda told: [told[1], told[0], told[2]])),
    ("int8", "another version of the bundle", file_plant(BUNDLE, lambda data: data[:8] + b"\2" + data[9:])),
)  # fmt: skip


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
    tuple(FormatFault(f"{base}: {id}", base, plant, (DAMAGE,)) for base, id, plant in _OWN),
    # all zero points are 0
    frozenset({"zero points of other rows"}),
)
