"""Builds an ExecuTorch program: its method `forward` of kernels and XNNPACK graphs, and the layout of its file.

The numbers of the model follow the program, each as named data, so that its bytes are known before any is read. What
kernels read lies in the segment of constants; named data may be a part of it, so that a tied LM head is stored once.

Source: https://github.com/pytorch/executorch, exir/_serialize/program.fbs and exir/_serialize/_program.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.executorch.graph import Graph, Shape
from converters.executorch.packages import program_schema, require
from converters.executorch.weights import Weight

#: Alignment of segments in the file, and of tensors in memory, in bytes.
ALIGNMENT = 128
_SIZES = {"FLOAT": 4, "LONG": 8, "CHAR": 1}
_SERIALIZE = "executorch.exir._serialize"


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Program:
    """Builds a program. Its values have numbers, which methods return and take as arguments of kernels."""

    def __init__(self, weights: Sequence[Weight], read_by_kernels: Sequence[str]) -> None:
        self.weights = {weight.name: weight for weight in weights}
        self._made = program_schema()
        self._values: list[Any] = []
        self._known: dict[tuple[str, object], int] = {}
        self._operators: list[tuple[str, str]] = []
        self._instructions: list[Any] = []
        self._graphs: list[Graph] = []
        self._slots: dict[str, int] = {}
        self._in_slots: list[tuple[Any, str]] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._told: dict[str, Sequence[int]] = {}
        self._tables: list[bytes] = []
        self._kernels_read = [self.weights[name] for name in read_by_kernels]
        self._packed: dict[int, bytes] | None = None
        self._offsets: dict[str, int] = {}

    def input(self, name: str, shape: Shape, *, is_open: bool) -> int:
        """Declares an int64 input of `forward`; `is_open`: its number of tokens varies."""
        self._inputs.append(self.tensor(name, shape, "LONG", is_open=is_open))
        return self._inputs[-1]

    def output(self, value: int) -> None:
        self._outputs.append(value)

    def tell(self, name: str, *numbers: int) -> None:
        """Adds a method without arguments that gives numbers, as runners ask for them."""
        self._told[name] = numbers

    def tensor(self, slot: str, shape: Shape, dtype: str = "FLOAT", *, is_open: bool = False) -> int:
        """Adds a tensor in memory, which it shares with all of its slot; `is_open`: its number of tokens varies."""
        tensor = self._tensor(shape, dtype, is_open=is_open)
        self._slots[slot] = max(self._slots.get(slot, 0), _aligned(prod(shape) * _SIZES[dtype]))
        self._in_slots.append((tensor, slot))
        return self._value(tensor)

    def table(self, numbers: NDArray[np.float32]) -> int:
        """A float32 constant that is not a weight of the model."""
        data, key = numbers.tobytes(), (str(numbers.shape), numbers.tobytes())
        if key not in self._known:
            self._tables.append(data)
            index = 2 * len(self._kernels_read) + len(self._tables)
            self._known[key] = self._value(self._tensor(numbers.shape, "FLOAT", data=index))
        return self._known[key]

    def weight(self, name: str) -> tuple[int, int | None]:
        """The values of a weight and of its scales, as kernels and inputs of graphs read them; None: no scales."""
        weight = self.weights[name]
        # the first one stands for tensors without data
        index = 1 + 2 * self._kernels_read.index(weight)
        kinds = [("numbers", weight.shape, "FLOAT" if weight.kind == "fp32" else "CHAR")]
        kinds += [] if weight.kind == "fp32" else [("scales", weight.shape[:1], "FLOAT")]
        for more, (part, shape, dtype) in enumerate(kinds):
            if (part, name) not in self._known:
                self._known[part, name] = self._value(self._tensor(shape, dtype, data=index + more))
        return self._known["numbers", name], self._known.get(("scales", name))

    def scalar(self, kind: str, *given: float | bool) -> int:
        """A constant `Int`, `Double`, `Bool` or `Null` of the schema."""
        if (kind, given) not in self._known:
            self._known[kind, given] = self._value(getattr(self._made, kind)(*given))
        return self._known[kind, given]

    def number(self) -> int:
        """Adds an integer that a kernel computes."""
        return self._value(self._made.Int(0))

    def kernel(self, name: str, overload: str, *args: int) -> None:
        """Adds a call of a kernel; its last arguments are the values that it writes."""
        operator = (name, overload)
        if operator not in self._operators:
            self._operators.append(operator)
        self._instructions.append(self._made.KernelCall(self._operators.index(operator), list(args)))

    def run(self, graph: Graph, outputs: Sequence[int]) -> None:
        """Adds a call of a graph, which writes `outputs`."""
        self._instructions.append(self._made.DelegateCall(len(self._graphs), [*graph.inputs, *outputs]))
        self._graphs.append(graph)

    def offsets(self) -> Mapping[str, int]:
        """Where the numbers and scales of each tensor start in the file, in bytes, and where all end, as ""."""
        self.pieces()
        return self._offsets

    def pieces(self) -> Mapping[int, bytes]:
        """All bytes but for the numbers of the model, by where they start in the file."""
        if self._packed is None:
            self._packed = dict(self._laid_out())
        return self._packed

    def _laid_out(self) -> Iterator[tuple[int, bytes]]:
        made, graphs = self._made, [graph.packed() for graph in self._graphs]
        read = [(name, size) for weight in self._kernels_read for name, size in _parts(weight)]
        others = [part for weight in self.weights.values() for part in _parts(weight) if part not in read]
        sizes = [
            *(size for _, size in read),
            *map(len, self._tables),
            *map(len, graphs),
            *(size for _, size in others),
        ]
        starts = list(accumulate(map(_aligned, sizes), initial=0))
        first_graph = len(read) + len(self._tables)
        first_other = first_graph + len(graphs)
        segments = [made.DataSegment(0, starts[first_graph])]
        segments += [made.DataSegment(starts[first_graph + index], len(graph)) for index, graph in enumerate(graphs)]
        placed = [*zip(read, starts, strict=False), *zip(others, starts[first_other:], strict=False)]
        named = []
        for (name, size), start in placed:
            if size:
                named.append(made.NamedData(name, len(segments)))
                segments.append(made.DataSegment(start, size))
        constants = made.SubsegmentOffsets(0, [0, *starts[:first_graph]])
        head = self._head(made.Program(
            version=0, execution_plan=[self._plan(), *map(self._telling, self._told)], constant_buffer=[],
            backend_delegate_data=[], segments=segments, constant_segment=constants, named_data=named,
        ), starts[-1])  # fmt: skip
        base = _aligned(len(head))
        self._offsets = {name: base + start for (name, _), start in placed} | {"": base + starts[-1]}
        yield 0, head
        inside = [*[b""] * len(read), *self._tables, *graphs]
        yield from ((base + start, data) for start, data in zip(starts, inside, strict=False) if data)

    def _plan(self) -> Any:
        made, size = self._made, 0
        for tensor, slot in self._in_slots:
            start = list(self._slots).index(slot)
            size = sum(list(self._slots.values())[:start])
            tensor.allocation_info = made.AllocationDetails(1, size & 0xFFFFFFFF, size >> 32)
        memory, graphs = [0, sum(self._slots.values())], range(1, 1 + len(self._graphs))
        delegates = [
            made.BackendDelegate(
                "XnnpackBackend", made.BackendDelegateDataReference(made.DataLocation.SEGMENT, index), []
            )
            for index in graphs
        ]
        operators = [made.Operator(name, overload) for name, overload in self._operators]
        return self._method("forward", self._values, self._inputs, self._outputs, memory, operators, delegates)

    def _telling(self, name: str) -> Any:
        values = [self._made.EValue(self._made.Int(number)) for number in self._told[name]]
        return self._method(name, values, [], list(range(len(values))), [0], [], [])

    def _method(
        self, name: str, values: Any, inputs: Any, outputs: Any, memory: list[int], operators: Any, delegates: Any
    ) -> Any:
        made, steps = self._made, self._instructions if delegates else []
        chain = made.Chain([], [], [made.Instruction(step) for step in steps], None)
        about = made.ContainerMetadata("", "")
        return made.ExecutionPlan(name, about, values, inputs, outputs, [chain], operators, delegates, memory)

    @staticmethod
    def _head(program: Any, data_size: int) -> bytes:
        """The flatbuffer, with a header that says where segments start."""
        binary = require(f"{_SERIALIZE}._program")
        flatbuffer = require(f"{_SERIALIZE}._flatbuffer_program")._program_to_flatbuffer(
            program, constant_tensor_alignment=16, delegate_alignment=16
        )
        length = -(-binary._ExtendedHeader.EXPECTED_LENGTH // flatbuffer.max_alignment) * flatbuffer.max_alignment
        size = length + len(flatbuffer.data)
        header = binary._ExtendedHeader(
            program_size=size, segment_base_offset=_aligned(size), segment_data_size=data_size
        )
        inserted: bytes = binary._insert_flatbuffer_header(
            flatbuffer.data, r"ET[0-9a-zA-Z][0-9a-zA-Z]", header.to_bytes().ljust(length, b"\0")
        )
        return inserted

    def _tensor(self, shape: Shape, dtype: str, *, is_open: bool = False, data: int = 0) -> Any:
        made = self._made
        types = require("executorch.exir.scalar_type").ScalarType
        how = made.TensorShapeDynamism.DYNAMIC_BOUND if is_open else made.TensorShapeDynamism.STATIC
        axes = list(range(len(shape)))
        return made.Tensor(getattr(types, dtype), 0, list(shape), axes, False, 0, data, None, how)

    def _value(self, made: Any) -> int:
        self._values.append(self._made.EValue(made))
        return len(self._values) - 1


def _parts(weight: Weight) -> tuple[tuple[str, int], tuple[str, int]]:
    return (weight.name, weight.size), (weight.scale_name, weight.scale_size)
