"""Programs of ExecuTorch: kernels, XNNPACK's graphs, constants and what runners ask for, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from planted.formats.files import added, file_plant, missing
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject
from support.editing import edit_json
from support.formats.written import WrittenModel
from support.product import EXECUTORCH_PROGRAM as PROGRAM
from support.product import read_spec

from converters.executorch import operators
from converters.executorch.decoder import decoder_program, decoder_weights
from converters.executorch.graph import Graph, Value
from converters.executorch.program import Program
from converters.executorch.writer import write_program
from converters.read_back import open_plain
from seap_export.model.families import names
from seap_export.model.sources.config import end_tokens

_NUMBERS: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "int8": np.dtype("i1"), "int4": np.dtype("u1")}
_SCALES: dict[str, np.dtype[Any]] = {"int8": np.dtype("<f4"), "int4": np.dtype(ml_dtypes.bfloat16)}


def _holds(base: Base, name: str) -> frozenset[str]:
    kinds = {weight.name: weight.kind for weight in decoder_weights(base.spec, base.precision)}
    return frozenset({"float" if kinds[name] == "fp32" else "levels"})


@cache
def _program(source: Path, precision: str) -> Program:
    return decoder_program(read_spec(source), precision, [2])


def _open(made: WrittenModel, name: str) -> Parts:
    program = _program(made.source, made.format.precision)
    weight, offsets, path = program.weights[name], program.offsets(), made.folder / PROGRAM
    dtype, rows = _NUMBERS[weight.kind], weight.shape[0]
    shape = (rows,) if len(weight.shape) == 1 else (rows, weight.size // rows // dtype.itemsize)
    parts = {"numbers": np.memmap(path, dtype, "r+", offsets[name], shape)}
    if weight.kind in _SCALES:
        scale = _SCALES[weight.kind]
        whole = (rows, weight.scale_size // rows // scale.itemsize)
        raw = np.memmap(path, np.uint8, "r+", offsets[weight.scale_name], weight.scale_size)
        parts["scales"] = raw.view(scale).reshape(whole)
    return parts


def program(change: Callable[[Program], object]) -> Plant:
    """Writes the program again, after a change, with the numbers of the model."""

    def plant(made: WrittenModel) -> None:
        spec, source = read_spec(made.source), made.source
        changed = decoder_program(spec, made.format.precision, end_tokens(source))
        change(changed)
        plain = open_plain(source, spec)
        write_program(made.folder / PROGRAM, changed, lambda name: plain.read([name])[name])

    return plant


def emitted(target: str, function: Callable[..., Any]) -> Plant:
    """Writes the program again with another function in the place of one of the decoder's operators."""
    whole = program(lambda changed: None)

    def plant(made: WrittenModel) -> None:
        with mock.patch.object(operators, target, function):
            whole(made)

    return plant


def _told(name: str, *numbers: int) -> Plant:
    return program(lambda changed: changed.tell(name, *numbers))


def _graph(index: int, change: Callable[[Graph], object]) -> Plant:
    """Changes a graph of XNNPACK."""
    return program(lambda changed: change(changed._graphs[index]))


def _nodes(graph: Graph, kind: str) -> list[Any]:
    return [node.xnode_union for node in graph._nodes if type(node.xnode_union).__name__ == f"XNN{kind}"]


def _node(index: int, kind: str, number: int, **values: Any) -> Plant:
    """Changes a node."""

    def change(graph: Graph) -> None:
        node = _nodes(graph, kind)[number]
        for key, value in values.items():
            assert getattr(node, key) != value
            setattr(node, key, value)

    return _graph(index, change)


def _other_kind(graph: Graph, before: str, after: str) -> None:
    node = next(node for node in graph._nodes if type(node.xnode_union).__name__ == f"XNN{before}")
    node.xnode_union = getattr(graph._made, f"XNN{after}")(**vars(node.xnode_union))


def _lowered_token(changed: Program) -> None:
    """Adds a constant to the logits that makes one token impossible."""
    graph = changed._graphs[-1]
    logits, vocabulary = graph.outputs[-1], changed.weights[names.tensor("embed_tokens")].shape[0]
    lowered = np.zeros(vocabulary, np.float32)
    lowered[40] = -1e4
    constant = graph.take(changed.table(lowered), (vocabulary,))
    fields = {"input1_id": logits.index, "input2_id": constant.index}
    graph.outputs[-1] = graph.node("Add", logits.shape, **fields)
    call = changed._instructions[-1]
    changed._instructions[-1] = type(call)(call.delegate_index, [*graph.inputs, call.args[-1]])


def _kernels(changed: Program, name: str) -> Iterator[Any]:
    index = next(number for number, (kernel, _) in enumerate(changed._operators) if kernel == name)
    return (one for one in changed._instructions if getattr(one, "op_index", None) == index)


def _arguments(name: str, change: Callable[[list[int]], object]) -> Plant:
    """Changes the arguments of the first call of a kernel."""
    return program(lambda changed: change(next(_kernels(changed, name)).args))


def _swapped(one: int, other: int) -> Callable[[list[int]], None]:
    def change(arguments: list[int]) -> None:
        arguments[one], arguments[other] = arguments[other], arguments[one]

    return change


def _not_causal(changed: Program) -> None:
    next(_kernels(changed, "llama::custom_sdpa")).args[6] = changed.scalar("Bool", False)


def _another_scale(changed: Program) -> None:
    next(_kernels(changed, "llama::custom_sdpa")).args[7] = changed.scalar("Double", 0.3)


def _one_left_out(changed: Program) -> None:
    changed._instructions.remove(next(_kernels(changed, "llama::update_cache")))


def _one_twice(changed: Program) -> None:
    calls = changed._instructions
    calls.insert(-1, calls[-2])


def _table(change: Callable[[np.ndarray], np.ndarray], index: int) -> Plant:
    """Changes a constant of the program."""

    def plant(changed: Program) -> None:
        changed._tables[index] = change(np.frombuffer(changed._tables[index], np.float32)).astype("<f4").tobytes()

    return program(plant)


def _epsilon(graph: Graph) -> None:
    old, new = (np.float32(number).tobytes() for number in (1e-5, 1e-3))
    assert old in graph._constants
    graph._constants = bytearray(bytes(graph._constants).replace(old, new, 1))


def _without_bias(g: Graph, x: Value, weight: str | Value, bias: Any = None) -> Value:
    return _LINEAR(g, x, weight)


_LINEAR = Graph.linear


def _no_biases(made: WrittenModel) -> None:
    with mock.patch.object(Graph, "linear", _without_bias):
        program(lambda changed: None)(made)


def _no_rounding(graph: Graph) -> None:
    """A product with levels reads what is not rounded."""
    convert = _nodes(graph, "Convert")[0]
    for node in _nodes(graph, "FullyConnected"):
        if node.input1_id == convert.output_id:
            node.input1_id = convert.input_id


def _memory(changed: Program) -> None:
    """The caches of two layers share memory."""
    for index, (tensor, slot) in enumerate(changed._in_slots):
        if slot == "key-1":
            changed._in_slots[index] = (tensor, "key-0")


def _tokenizer(change: Callable[[dict[str, Any]], object]) -> Plant:
    return lambda made: edit_json(made.folder / "tokenizer.json", change)


def _replaced(file: str, before: bytes, after: bytes) -> Plant:
    return file_plant(file, lambda data: data.replace(before, after, 1))


def _other_matrix(graph: Graph) -> None:
    nodes = _nodes(graph, "FullyConnected")
    nodes[2].filter_id = nodes[3].filter_id


_NORM, _ACTIVATED = operators.norm, operators.activated


def _not_centred(g: Graph, x: Value, epsilon: float, gain: Value, bias: Value | None = None, **how: bool) -> Value:
    return _NORM(g, x, epsilon, gain, bias)


def _cut_off(g: Graph, x: Value) -> Value:
    return g.node("Clamp", x.shape, (0.0, 6.0), input_id=x.index)


def _lower(values: dict[str, Any]) -> None:
    values["normalizer"] = {"type": "Lowercase"}


_OWN: tuple[tuple[str, str, Plant], ...] = (
    ("int8", "another epsilon", _graph(0, _epsilon)),
    ("int8", "another scale of attention", program(_another_scale)),
    ("int4", "attention sees what comes", program(_not_causal)),
    ("int8", "cosines of another base", _table(lambda table: table * np.float32(0.999), 0)),
    ("int8", "sines of another position", _table(lambda table: np.roll(table, 16), 1)),
    ("int4", "no sines", _table(np.zeros_like, 1)),
    ("int8", "the logits of one token are lowered", program(_lowered_token)),
    ("int4", "the same with levels of 4 bits", program(_lowered_token)),
    ("fp32", "the same in float32", program(_lowered_token)),
    ("int8", "keys and values swapped", _arguments("llama::custom_sdpa", _swapped(1, 2))),
    ("int4", "keys are read as queries", _arguments("llama::custom_sdpa", _swapped(0, 1))),
    ("int8", "a cache is not updated", program(_one_left_out)),
    ("int8", "a graph runs twice", program(_one_twice)),
    ("int8", "caches of layers share memory", program(_memory)),
    ("int8", "another activation", _graph(1, lambda graph: _other_kind(graph, "Sigmoid", "Tanh"))),
    ("int8", "a sum is a product", _graph(1, lambda graph: _other_kind(graph, "Add", "Multiply"))),
    ("int4", "a matrix for another", _graph(0, _other_matrix)),
    ("int4", "a bias is not added", _no_biases),
    ("int8", "activations are not rounded", _graph(0, _no_rounding)),
    ("int8", "rows are rounded otherwise", _graph(0, lambda graph: setattr(_rounded(graph), "num_nonbatch_dims", 2))),
    ("int4", "blocks of another size", _graph(0, lambda graph: setattr(_grouped(graph), "group_size", 64))),
    ("int8", "another node's flags", _node(0, "Multiply", 0, flags=1)),
    ("fp32", "another GELU", emitted("activated", lambda g, _, x: _ACTIVATED(g, "gelu", x))),
    ("fp32", "norms are not centred", emitted("norm", _not_centred)),
    ("fp32", "a bound that cuts off", emitted("scaled", lambda g, x, factor: _cut_off(g, x))),
    ("fp32", "positions one behind", _table(np.negative, -1)),
    ("int8", "another end token", _told("get_eos_ids", 40)),
    ("int8", "two end tokens", _told("get_eos_ids", 2, 40)),
    ("int4", "a longer context", _told("get_max_context_len", 4096)),
    ("fp32", "longer prompts", _told("get_max_seq_len", 4096)),
    ("int8", "another vocabulary", _told("get_vocab_size", 96)),
    ("int4", "no cache", _told("use_kv_cache", 0)),
    ("int4", "other bits by name", _told("get_weight_bits", 8)),
    ("int8", "BOS is put before texts", _told("get_bos_id", 1)),
    ("int8", "a kernel of another name", _replaced(PROGRAM, b"aten::select_copy", b"aten::select_cope")),
    ("fp32", "a method of another name", _replaced(PROGRAM, b"get_eos_ids", b"get_bos_ids")),
    ("int4", "another backend", _replaced(PROGRAM, b"XnnpackBackend", b"XnnpackForeign")),
    ("int8", "a token of another text", _replaced("tokenizer.json", b'"<pad>"', b'"<PAD>"')),
    ("int4", "texts in lower case", _tokenizer(_lower)),
    ("fp32", "no tokenizer", missing("tokenizer.json")),
    ("int8", "a config of the tokenizer", added("tokenizer_config.json", b'{"bos_token": "x"}')),
    ("int4", "a further program", added("model.ptd", b"PTD")),
)  # fmt: skip


def _rounded(graph: Graph) -> Any:
    return next(
        value.xvalue_union.quant_params
        for value in graph._values
        if type(getattr(value.xvalue_union, "quant_params", None)).__name__ == "PerTokenDynamicQuant"
    )


def _grouped(graph: Graph) -> Any:
    return next(
        value.xvalue_union.quant_params
        for value in graph._values
        if type(getattr(value.xvalue_union, "quant_params", None)).__name__ == "PerChannelGroupQuant"
    )


SUBJECT = Subject(
    "executorch",
    {
        "fp32": Base("gpt2-tied", "fp32"),
        "int8": Base("qwen3-biases", "int8"),
        "int4": Base("llama-biases", "int4"),
    },
    _open,
    _holds,
    PROGRAM,
    tuple(FormatFault(f"{base}: {id}", base, plant, (DAMAGE,)) for base, id, plant in _OWN),
    # the apps that run it have their own
    frozenset({"another chat template", "a chat template that adds a turn", "no chat template"}),
)
