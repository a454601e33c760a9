"""The format `openvino`: an IR for OpenVINO, OpenVINO GenAI and optimum-intel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import ClassVar

from converters.accepted import cannot_hold
from converters.format import Format
from converters.openvino.ir_file import MODEL_FILE, copy_origins, read_ir, write_ir
from converters.openvino.packages import EXTRA
from converters.openvino.read_back import IrWeights
from converters.openvino.stored_tensor import BLOCK, Storage, padded, storage_of
from converters.openvino.tensors import standard_graph
from converters.openvino.tokenizer import tokenizer_graphs, write_tokenizer
from converters.openvino.translate import translate
from converters.whole import whole_or_nothing
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    LayerInput,
    Mamba,
    Mlp,
    ModelSpec,
    RopeSpec,
    names,
)
from seap_export.model.sources.config import read_spec
from seap_export.pruning.rounding.grid import BlockQuantization, Way

#: The share of padding in the weights from which on the user is told.
_REMARKABLE = 0.01
_KINDS = (Attention, Convolution, DeltaNet, LayerInput, Mamba, Mlp)
_TYPES = {"f32": "fp32", "f16": "fp16", "i8": "int8", "i4": "int4"}


@dataclass(frozen=True)
class OpenvinoFormat(Format):
    """Writes an IR for OpenVINO, the tokenizer, also as graphs of OpenVINO, and the configs.

    Attributes:
        precision: fp32; or that of the matrices, which are computed with in float32 or what the plugin chooses: fp16,
            or int8 and int4 with a scale for each 32 weights of a row, as our ONNX graphs have them, which each matrix
            may have of its own.
    """

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = EXTRA
    runtimes: ClassVar[tuple[str, ...]] = ("openvino",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8", "int4")
    ways: ClassVar[tuple[Way, ...]] = (Way(4, BLOCK), Way(8, BLOCK))
    version: ClassVar[int] = 6
    precision: str = precisions[0]

    @classmethod
    def read(cls, folder: Path) -> OpenvinoFormat:
        constants = read_ir(folder).constants
        if (mixed := cls.mixed_of(folder)) is not None:
            return mixed
        embedding = constants.get(names.tensor("embed_tokens"))
        if embedding is None or embedding.element_type not in _TYPES:
            raise ArtifactError(f"{folder / MODEL_FILE}: has no embedding that this package wrote; export again")
        types = {constant.element_type for constant in constants.values()}
        return cls(_TYPES[next((kind for kind in ("i4", "i8") if kind in types), embedding.element_type)])

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        if (part := _unknown_layer(spec)) is not None:
            return cannot_hold(self, part)
        try:
            tokenizer_graphs(model_folder)
        except InputError as error:
            return str(error)
        return None

    def remark(self, spec: ModelSpec) -> str | None:
        """Says if the embedding stays in floats, and what whole blocks of integers cost, if at least 1 percent."""
        if (rounding := self._storage.rounding) is None:
            return None
        remarks, shapes = [], spec.tensors()
        if not rounding.takes_table(spec.hidden_size):
            remarks.append(
                f"{self.name}:{self.precision}: the embedding and the LM head stay in fp16, because their rows of "
                f"{spec.hidden_size} are not whole blocks of {BLOCK}"
            )
        matrices = [s for name, s in shapes.items() if len(s) == 2 and self._storage.rounding_of(name, s[1])]
        share = sum(rows * padded(columns) for rows, columns in matrices) / sum(map(prod, matrices)) - 1
        if share >= _REMARKABLE:
            remarks.append(
                f"{self.name}:{self.precision} fills rows up to whole blocks of {BLOCK}, which adds {share:.0%} to "
                f"its weights; a recipe whose align is a multiple of {BLOCK} avoids that"
            )
        return "; ".join(remarks) or None

    def size(self, spec: ModelSpec) -> int:
        """Bytes of openvino_model.bin, without the constants of the graph and the padding between tensors."""
        shapes = spec.tensors()
        positions = prod(shapes.pop(names.tensor("positions"), (0,)))  # in float32, as vectors are
        matrices = sum(self._matrix_bytes(name, *shape) for name, shape in shapes.items() if len(shape) == 2)
        vectors = positions + sum(prod(shape) for shape in shapes.values() if len(shape) != 2)
        tables = sum((spec.max_position_embeddings + _short(rope, spec)) * rope.dim for rope in spec.ropes)
        return round(matrices) + 4 * (vectors + tables)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        rounding = self._storage.rounding
        return rounding if rounding is not None and rounding.bits == 4 else None

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        """Writes an IR of OpenVINO with its tokenizer; the same packages of OpenVINO give the same bytes."""
        if (part := _unknown_layer(read_spec(model_folder))) is not None:
            raise InputError(cannot_hold(self, part))
        with whole_or_nothing(out_folder):
            write_tokenizer(model_folder, out_folder)  # first, because it may be refused
            graph = standard_graph(model_folder, replace(self._storage, grid=self.mixed_grid(model_folder)))
            tensors = [tensor for weight in graph.weights for tensor in weight.tensors]
            write_ir(translate(graph), tensors, out_folder, on_layer)

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes it with the written graphs' notes of what wrote them."""
        self.write(model_folder, out_folder, lambda layer: None)
        for path in out_folder.glob("*.xml"):
            if (written / path.name).is_file():
                copy_origins(written / path.name, path)

    def weights(self, folder: Path, spec: ModelSpec) -> IrWeights:
        return IrWeights(folder, spec)

    @property
    def _storage(self) -> Storage:
        if self.average is None:
            return storage_of(self.precision)
        return Storage("i4", BlockQuantization(4, BLOCK, average=self.average, mix=self.name, ways=self.ways))

    def _matrix_bytes(self, name: str, rows: int, columns: int) -> float:
        """Bytes of a stored matrix, including its scales in f16."""
        rounding = self._storage.rounding_of(name, columns)
        if rounding is None:
            return rows * columns * (4 if self._storage.floats == "f32" else 2)
        return (
            rows * columns * self.average / 8
            if self.average
            else rows * padded(columns) * (rounding.bits / 8 + 2 / BLOCK)
        )


def _unknown_layer(spec: ModelSpec) -> str | None:
    """The first part of layers that the format does not hold, in words; None: it holds all."""
    for sublayer in spec.sublayers:
        if not isinstance(sublayer, _KINDS):
            return sublayer.noun
    return None


def _short(rope: RopeSpec, spec: ModelSpec) -> int:
    """Rows of the rotation's table for short inputs; 0: one table is for all inputs."""
    switch = rope.switches_at
    return switch if switch is not None and switch < spec.max_position_embeddings else 0
