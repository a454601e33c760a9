"""Computes how much memory ONNX Runtime takes for a graph, from the sizes in its file, before a session is opened.

On the CPU, a session copies each constant into the layout of its kernels, one at a time, and gives up the pages of the
data file: so it takes all of them once, and the largest one twice. Matrices of float16 are multiplied in float32, a
tied table is read by two operators, and of a table from which only rows are taken, hardly anything is in memory. What
nodes on constants read and give is there at once while the session is opened. A call takes its logits twice, the
caches, the scores of its heads, and six values for each channel of the widest layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from seap_export.common.memory import available_memory
from seap_export.errors import ArtifactError, EnvironmentFailure
from seap_export.runtime.decoding.cache import is_state
from seap_export.runtime.decoding.decoder import CACHE_KEY
from seap_export.runtime.providers import free_device_memory
from validation.execution import Execution
from validation.prompts import Case

#: What a session takes besides weights: the graph, its plan and the threads.
_SESSION = 32_000_000
_VALUES, _FLOAT = 6, 4
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm")
#: The operators that take rows of a table.
_LOOK_UPS = {"Gather", "GatherBlockQuantized"}


@dataclass(frozen=True)
class Calls:
    """The size of the largest calls that a session must be able to run.

    Attributes:
        tokens: Tokens of a row in one call.
        positions: Tokens of a row in its cache at the end.
    """

    rows: int
    tokens: int
    positions: int


def calls_of(case: Case) -> Calls:
    """The size of the largest calls that a parity case makes."""
    positions = case.filled + max(map(len, case.rows)) + len(case.forced[0])
    tokens = max(map(len, case.calls if len(case.rows) == 1 else case.rows))
    return Calls(len(case.rows), tokens, positions)


@dataclass(frozen=True)
class SessionMemory:
    """Bytes that a session takes where its provider keeps the weights: of the host's memory, or of the GPU's.

    Attributes:
        copies: The constants as kernels hold them.
        largest: The largest one of these.
        run: The largest call.
        unpacked: What nodes on constants read and give.
        can_map: Whether the session can do without copies at no great cost: all products are in float32, on the CPU.
    """

    copies: int
    largest: int
    run: int
    unpacked: int = 0
    can_map: bool = False

    @property
    def total(self) -> int:
        """Peak bytes: while weights are unpacked, while the largest matrix is copied, or while the graph runs."""
        return _SESSION + max(self.unpacked, self.copies + max(self.largest, self.run))

    @property
    def without_copies(self) -> int:
        """Peak bytes if weights are read from the file, whose pages can be given up at any time."""
        return self.largest + self.run + _SESSION


def claim_memory(
    model: Path,
    calls: Sequence[Calls],
    execution: Execution = Execution(),  # noqa: B008 - frozen
    say: Callable[[str], object] = lambda line: None,
    *,
    can_map: bool = True,
) -> bool:
    """Says how much memory a session will take, and refuses one that does not fit into the free memory.

    Args:
        execution: On which provider, and in how much of the host's memory; without `compute`: in all that is free now.
        can_map: Whether it may be opened `mapped`, which changes its speed.

    Returns:
        Whether the session is to be opened `mapped`: its copies of the weights do not fit, but it works without them.
    """
    need = session_memory(model, calls, execution.provider)
    is_on_cpu = execution.provider == "cpu"
    free = _free_memory(execution) if is_on_cpu else free_device_memory(execution.provider)
    where = "" if is_on_cpu else " of the GPU's memory"
    if free is None or need.total <= free:
        say(f"ONNX Runtime will take about {_gigabytes(need.total)}{where}")
        return False
    if can_map and need.can_map and need.without_copies <= free:
        say(
            f"ONNX Runtime will read {_gigabytes(need.copies)} of weights from {model.parent.name}'s data file in "
            f"every call, because copies of them do not fit into {_gigabytes(free)}"
        )
        return True
    raise EnvironmentFailure(
        f"{model}: ONNX Runtime needs about {_gigabytes(need.total)}{where} to run it, and may take "
        f"{_gigabytes(free)} of what is free; use a smaller precision such as --precision int4, free memory or use a "
        "machine with more, or write the graph unchecked with 'seap-export convert'"
    )


def _free_memory(execution: Execution) -> int:
    """Bytes of the host's memory that may be taken."""
    free = available_memory()
    return free if execution.compute is None else min(free, execution.compute.memory)


def session_memory(model: Path, calls: Sequence[Calls], provider: str = "cpu") -> SessionMemory:
    """Computes the memory of a session; see `claim_memory`. The data file is not read."""
    graph = _Graph(_load(model))
    run = max(map(graph.run_bytes, calls))
    if provider != "cpu":
        return SessionMemory(sum(map(_size, graph.tensors.values())), 0, run)
    held = list(map(graph.held_bytes, graph.readers))
    return SessionMemory(sum(held), max(held, default=0), run, graph.unpacked, graph.is_float32)


def _load(model: Path) -> onnx.ModelProto:
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; export again")
    try:
        return onnx.load(model, load_external_data=False)
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{model}: cannot be read as ONNX ({reason:.200}); export again") from error


class _Graph:
    """The constants of a graph, those included that a session computes from others, and the operators that read them.

    Attributes:
        tensors: What is stored, by name.
        readers: By constant, the operators that read it in a call.
        unpacked: Bytes of the constants that nodes on constants read and give.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto, nodes = proto, []
        self.tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.readers: dict[str, set[str]] = defaultdict(set)
        constants = set(self.tensors)
        for node in proto.graph.node:
            if node.input and constants.issuperset(node.input):
                constants.update(node.output)
                nodes.append(node)
            else:
                for name in constants.intersection(node.input):
                    self.readers[name].add(node.op_type)
        read = sorted({name for node in nodes for name in node.input}.intersection(self.tensors))
        self._mapped = self.tensors.keys() - read
        part = onnx.helper.make_graph(nodes, "constants", [], [], [self.tensors[name] for name in read])
        model = onnx.helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)
        given = onnx.shape_inference.infer_shapes(model).graph.value_info
        self._sizes = {name: _size(tensor) for name, tensor in self.tensors.items()}
        self._sizes |= {item.name: _bytes(item.type.tensor_type) for item in given}
        self.unpacked = sum(self._sizes[name] for name in read) + sum(self._sizes[item.name] for item in given)

    def held_bytes(self, name: str) -> int:
        """Bytes of a constant as the CPU's kernels hold it."""
        operators, tensor = self.readers[name], self.tensors.get(name)
        if operators <= _LOOK_UPS and name in self._mapped:
            return 0
        is_half = tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT16
        return self._sizes.get(name, 0) * len(operators) * (2 if is_half and operators.intersection(_PRODUCTS) else 1)

    @property
    def is_float32(self) -> bool:
        """Whether every tensor of two or more dimensions is stored in float32."""
        return all(one.data_type == onnx.TensorProto.FLOAT for one in self.tensors.values() if len(one.dims) >= 2)

    def run_bytes(self, calls: Calls) -> int:
        """Bytes that calls of this size take: logits and their copy, a layer's values, and the caches."""
        graph = self._proto.graph
        dims = next(item for item in graph.output if item.name == "logits").type.tensor_type.shape.dim
        vocabulary, answered = dims[2].dim_value, dims[1].dim_value or calls.tokens
        heads = max((_integer(node, key) for node in graph.node for key in ("num_heads", "q_num_heads")), default=0)
        inner = (shape for shape in map(self._product, graph.node) if vocabulary not in shape)
        each = _FLOAT * (_VALUES * max(map(max, inner), default=0) + heads * calls.positions)
        is_appended = any(note.key == CACHE_KEY and note.value == "appended" for note in self._proto.metadata_props)
        caches = (item.type.tensor_type for item in graph.input if is_state(item.name))
        cache = (1 + is_appended) * sum(_bytes(kind, calls.positions) for kind in caches)
        return calls.rows * (2 * _FLOAT * answered * vocabulary + calls.tokens * each + cache)

    def _product(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """The shape of the weights of a product, or a single 0."""
        if node.op_type == "MatMulNBits":
            return _integer(node, "N"), _integer(node, "K")
        weight = self.tensors.get(node.input[1]) if node.op_type in _PRODUCTS else None
        return (0,) if weight is None else tuple(weight.dims)


def _bytes(kind: onnx.TypeProto.Tensor, positions: int = 0) -> int:
    """Bytes of a row of a tensor, whose open dimensions after the first are of this size; without any, of all."""
    dims = [size.dim_value or positions for size in kind.shape.dim]
    return math.prod(dims[1:] if positions else dims) * _item(kind.elem_type)


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * _item(tensor.data_type)


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _item(kind: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
