"""Estimates how much memory ONNX Runtime will take for a graph, from its file, before a session is opened.

On the CPU, a session maps the data file and copies every matrix into the layout of its kernels, one at a time; the
pages of the original are released after each. docs/research/measurements.md compares estimates with measured memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
#: Values per token that a layer holds at once, in multiples of the hidden size and of the widest matrix's rows.
_HIDDEN, _WIDEST = 6, 3
_FLOAT = 4
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm")


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
        can_map: Whether the session can do without copies at no great cost: all products are in float32, on the CPU.
    """

    copies: int
    mapped: int
    largest: int
    run: int
    unpacked: int = 0
    can_map: bool = False

    @property
    def total(self) -> int:
        """Peak bytes: while weights are unpacked, while the largest matrix is copied, or while the graph runs."""
        return _SESSION + max(self.unpacked, self.copies + self.mapped + max(self.largest, self.run))

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
    """Estimates the memory of a session; see `claim_memory`. The data file is not read."""
    graph = _Graph(model)
    run = max(map(graph.run_bytes, calls))
    if provider != "cpu":
        return SessionMemory(sum(map(graph.size, graph.tensors)), 0, 0, run)
    copies = mapped = largest = 0
    for name in graph.tensors:
        uses, size = graph.uses[name], graph.size(name)
        kinds = {(node.op_type, position) for node, position in uses}
        if graph.rank(name) == 2 and kinds & {(product, 1) for product in _PRODUCTS}:
            size = size // graph.item(name) * _FLOAT  # the CPU multiplies in float32
            copies, largest = copies + size, max(largest, size)
            if ("Gather", 0) in kinds:  # a tied table is read as it is, too
                mapped += size
        elif graph.item(name) == 1 and ("MatMulNBits", 1) in kinds:
            size = max(_packed_bytes(node) for node, _ in uses if node.op_type == "MatMulNBits")
            copies, largest = copies + size, max(largest, size)
            if ("GatherBlockQuantized", 0) in kinds:  # the embedding's view of the table is a copy
                copies += size
        elif ("MatMulNBits", 2) in kinds:  # the scales, and as many sums of blocks, lie with the packed weights
            mapped += size
            copies += 2 * _FLOAT * (size // graph.item(name))
        elif not kinds & {("Gather", 0), ("GatherBlockQuantized", 2)}:  # of tables, only a few rows are read
            copies += size
    return SessionMemory(copies, mapped, largest, run, graph.unpacked_bytes(), graph.is_float32)


class _Graph:
    """Reads from an .onnx file what the estimate needs: tensors, their uses, and the sizes of caches and products."""

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise ArtifactError(f"{model}: no such file; export again")
        try:
            self._proto = onnx.load(model, load_external_data=False)
        except Exception as error:  # errors of several packages: file system, protobuf
            reason = " ".join(str(error).split())
            raise ArtifactError(f"{model}: cannot be read as ONNX ({reason:.200}); export again") from error
        self.tensors = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        self.uses: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        #: By the outputs of nodes on constants, which a session computes when it is opened, the tensors in them.
        folded: dict[str, frozenset[str]] = {name: frozenset([name]) for name in self.tensors}
        self._folded: list[onnx.NodeProto] = []
        for node in self._proto.graph.node:
            if node.input and all(name in folded for name in node.input):
                self._folded.append(node)
                of_all = frozenset[str]().union(*(folded[name] for name in node.input))
                folded |= dict.fromkeys(node.output, of_all)
                continue
            for position, name in enumerate(node.input):
                for tensor in folded.get(name, ()):
                    self.uses[tensor].append((node, position))

    def rank(self, name: str) -> int:
        """Number of dimensions of a tensor."""
        return len(self.tensors[name].dims)

    def item(self, name: str) -> int:
        """Bytes of one element of a tensor."""
        return _item(self.tensors[name].data_type)

    def size(self, name: str) -> int:
        """Bytes of all elements of a tensor."""
        return math.prod(self.tensors[name].dims) * self.item(name)

    def unpacked_bytes(self) -> int:
        """Bytes of the constants that nodes on constants read and give."""
        read = {name for node in self._folded for name in node.input if name in self.tensors}
        tensors = [self.tensors[name] for name in sorted(read)]
        part = onnx.helper.make_graph(self._folded, "constants", [], [], tensors)
        model = onnx.helper.make_model(part, opset_imports=self._proto.opset_import, ir_version=self._proto.ir_version)
        given = (item.type.tensor_type for item in onnx.shape_inference.infer_shapes(model).graph.value_info)
        sizes = (math.prod(one.dim_value for one in kind.shape.dim) * _item(kind.elem_type) for kind in given)
        return sum(map(self.size, read)) + sum(sizes)

    @property
    def is_float32(self) -> bool:
        """Whether every tensor of two or more dimensions is stored in float32."""
        matrices = [name for name in self.tensors if self.rank(name) >= 2]
        return all(self.tensors[name].data_type == onnx.TensorProto.FLOAT for name in matrices)

    def run_bytes(self, calls: Calls) -> int:
        """Bytes that calls of this size take: logits and their copy, a layer's activations, and the caches."""
        graph = self._proto.graph
        logits = next(item for item in graph.output if item.name == "logits").type.tensor_type
        dims = logits.shape.dim
        vocabulary = dims[2].dim_value
        answered = dims[1].dim_value or calls.tokens
        heads = max(map(_heads, graph.node), default=0)
        inner = [shape for shape in self._products() if vocabulary not in shape]
        hidden = min((min(shape) for shape in inner), default=0)
        widest = max((max(shape) for shape in inner), default=0)
        each = _FLOAT * (_HIDDEN * hidden + _WIDEST * widest + heads * calls.positions)
        is_appended = any(note.key == CACHE_KEY and note.value == "appended" for note in self._proto.metadata_props)
        cache = (1 + is_appended) * sum(
            math.prod(size.dim_value or calls.positions for size in dims[1:]) * _item(kind)
            for dims, kind in self._caches()
        )
        return calls.rows * (2 * _FLOAT * answered * vocabulary + calls.tokens * each + cache)

    def _products(self) -> Iterator[tuple[int, int]]:
        for node in self._proto.graph.node:
            if node.op_type == "MatMulNBits":
                yield _integer(node, "N"), _integer(node, "K")
            elif node.op_type in _PRODUCTS:
                weight = self.tensors.get(node.input[1])
                if weight is not None and len(weight.dims) == 2:
                    yield weight.dims[0], weight.dims[1]

    def _caches(self) -> Iterator[tuple[list[onnx.TensorShapeProto.Dimension], int]]:
        for item in self._proto.graph.input:
            if is_state(item.name):
                yield list(item.type.tensor_type.shape.dim), item.type.tensor_type.elem_type


def _packed_bytes(node: onnx.NodeProto) -> int:
    """Bytes of the weights that a product multiplies, as its kernel packs them."""
    return _integer(node, "N") * _integer(node, "K") * _integer(node, "bits") // 8


def _heads(node: onnx.NodeProto) -> int:
    return max(_integer(node, name) for name in ("num_heads", "q_num_heads"))


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _item(kind: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
