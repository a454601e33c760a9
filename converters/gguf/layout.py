"""The tensors of a GGUF file, and where in them the tensors of the plain form are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from converters.gguf.architectures import Architecture
from converters.gguf.folding import Folding
from converters.gguf.orders import Orders
from seap_export.model.families import Experts, Mamba, ModelSpec, Sublayer, names
from seap_export.model.families.family import FUSED
from seap_export.model.families.names import DENSE, NORMS, PROJECTIONS, ROUTED, STREAM_SCALE, Projection
from seap_export.model.families.sublayers import QK_NORMS
from seap_export.model.sources.gguf.names import NORM_NAMES, OUTER_STEMS, PROJECTION_NAMES

#: Stem and suffix of the tensors of a layer that are neither projections nor norms of the stream.
_INNER_NAMES: Mapping[str, tuple[str, str]] = {
    "kernel": ("shortconv.conv", ".weight"),
    "delta_kernel": ("ssm_conv1d", ".weight"),
    "delta_a_log": ("ssm_a", ""),
    "delta_dt_bias": ("ssm_dt", ".bias"),
    "delta_norm": ("ssm_norm", ".weight"),
    "mamba_kernel": ("ssm_conv1d", ".weight"),
    "mamba_kernel_bias": ("ssm_conv1d", ".bias"),
    "mamba_a_log": ("ssm_a", ""),
    "mamba_dt_bias": ("ssm_dt", ".bias"),
    "mamba_d": ("ssm_d", ""),
    "mamba_norm": ("ssm_norm", ".weight"),
}


@dataclass(frozen=True)
class Part:
    """A tensor of the plain form as rows of one in the file.

    Attributes:
        plain: Full name of the tensor in the plain form.
        factor: Factor that the rows are multiplied by when they are written.
        order: Row i in the file is row `order[i]` of the plain form, int64 [rows]; None: row i.
        columns: Column i in the file is column `columns[i]` of the plain form, int64; None: column i.
        is_log_decay: Whether the file holds -exp(x) of what the plain form has.
    """

    plain: str
    rows: int
    factor: float = 1.0
    order: NDArray[np.int64] | None = None
    columns: NDArray[np.int64] | None = None
    is_log_decay: bool = False


@dataclass(frozen=True)
class FileTensor:
    """A tensor in the file.

    Attributes:
        shape: (out, in) of a matrix, (experts, out, in) of one for each expert, or (out,).
        parts: The parts that its rows consist of, from the first row.
        layer: Index of the layer that it belongs to; None: it belongs to none.
        stem: Its name without layer and suffix, such as `attn_q`.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    layer: int | None = None
    stem: str = ""

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """The number of rows; a vector's numbers are rows of one."""
        return self.size if len(self.shape) == 1 else self.size // self.columns

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def file_tensors(architecture: Architecture, spec: ModelSpec) -> Iterator[FileTensor]:
    """The tensors of a model's file, in the order of use; those of the rotation are not among them."""
    outer, folding = spec.outer_tensors(), Folding.of(architecture, spec)
    norm = architecture.norm_names.get("norm", "output_norm.weight").partition(".")[0]
    stems = {**OUTER_STEMS, "norm": norm}

    def of_outer(name: str) -> FileTensor:
        plain = names.tensor(name)
        part = Part(plain, outer[plain][0], folding.factor(name))
        return FileTensor(f"{stems[name]}.weight", outer[plain], (part,), stem=stems[name])

    yield of_outer("embed_tokens")
    for layer in range(len(spec.layers)):
        yield from _Layer(architecture, spec, folding, layer).tensors()
    for name in spec.outer_names[1:]:
        yield of_outer(name)


@dataclass(frozen=True)
class _Layer:
    """Lists the tensors of one layer in a file."""

    architecture: Architecture
    spec: ModelSpec
    folding: Folding
    index: int

    def tensors(self) -> Iterator[FileTensor]:
        shapes = self.spec.layer_tensors(self.index)
        for norm in (*NORMS, *QK_NORMS):
            plain = names.tensor(norm, self.index)
            if plain in shapes:
                name = self.architecture.norm_names.get(norm, NORM_NAMES[norm])
                part = Part(plain, shapes[plain][0], self.folding.factor(norm), self._orders.rows(norm))
                stem = name.partition(".")[0]
                yield FileTensor(f"blk.{self.index}.{name}", shapes[plain], (part,), self.index, stem)
        scale = names.tensor(STREAM_SCALE, self.index)
        if scale in shapes:
            stem = "layer_output_scale"
            yield FileTensor(f"blk.{self.index}.{stem}.weight", shapes[scale], (Part(scale, 1),), self.index, stem)
        for stored, projections in self._stored().items():
            for suffix in (".weight", ".bias"):
                if names.tensor(projections[0], self.index) + suffix in shapes:
                    yield self._projections(stored, projections, suffix, shapes)
        for sublayer in self.spec.layers[self.index].sublayers:
            for name, (rows, *others) in sublayer.inner_tensors().items():
                stem, suffix = _INNER_NAMES[name]
                part = Part(
                    names.tensor(name, self.index),
                    rows,
                    order=self._orders.rows(name),
                    is_log_decay=name in ("delta_a_log", "mamba_a_log"),
                )
                shape = _shape_of_inner(sublayer, name, (rows, *others[1:]))
                yield FileTensor(f"blk.{self.index}.{stem}{suffix}", shape, (part,), self.index, stem)

    @property
    def _orders(self) -> Orders:
        return Orders(self.architecture, self.spec, self.index)

    def _stored(self) -> dict[str, tuple[Projection, ...]]:
        """The projections that the file stores as one tensor, by the name of that tensor."""
        fused = {one: name for name in self.architecture.fused for one in FUSED[name]}
        stored: dict[str, tuple[Projection, ...]] = {}
        for projection in PROJECTIONS:
            name = fused.get(projection, projection)
            stored[name] = (*stored.get(name, ()), projection)
        return stored

    def _projections(
        self, stored: str, projections: tuple[Projection, ...], suffix: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> FileTensor:
        parts: list[Part] = []
        shape: tuple[int, ...] = (0,)
        for projection in projections:
            plain = names.tensor(projection, self.index) + suffix
            order, columns = self._orders.rows(projection), self._orders.columns(projection)
            parts.append(Part(plain, shapes[plain][0], self.folding.factor(projection), order, columns))
            shape = (shape[0] + shapes[plain][0], *shapes[plain][1:])
        if stored == "q_gate_proj":
            parts = [part for of_head in zip(*map(self._by_head, parts), strict=True) for part in of_head]
        if stored in ROUTED[1:]:
            shape, parts = self._of_experts(*parts)
        if stored == "shared_gate":
            shape = shape[1:]
        stem = PROJECTION_NAMES[stored]
        if stored in DENSE and any(isinstance(one, Experts) for one in self.spec.layers[self.index].sublayers):
            stem += "_shexp"
        return FileTensor(f"blk.{self.index}.{stem}{suffix}", shape, tuple(parts), self.index, stem)

    def _of_experts(self, part: Part) -> tuple[tuple[int, ...], list[Part]]:
        """The shape of a tensor with a matrix for each expert, and its parts: of output projections, their columns."""
        experts, hidden = self.spec.layers[self.index][Experts], self.spec.hidden_size
        number, width = experts.num_experts, experts.moe_intermediate_size
        if part.rows != hidden:
            return (number, width, hidden), [part]
        columns = (np.arange(number * width)[experts.of_expert(expert)] for expert in range(number))
        return (number, hidden, width), [replace(part, columns=of_expert) for of_expert in columns]

    def _by_head(self, part: Part) -> list[Part]:
        """Divides a part into the rows of each attention head."""
        order = np.arange(part.rows) if part.order is None else part.order
        width = self.spec.head_dim
        return [replace(part, rows=width, order=rows) for rows in order.reshape(-1, width)]


def _shape_of_inner(sublayer: Sublayer, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an inner tensor in the file.

    In Mamba-2, some numbers of heads are columns there, and the norm has a row for each group.
    """
    if not isinstance(sublayer, Mamba):
        return shape
    if name == "mamba_norm":
        return sublayer.mamba_n_groups, sublayer.channels // sublayer.mamba_n_groups
    return (*shape, 1) if name in ("mamba_a_log", "mamba_d") else shape
