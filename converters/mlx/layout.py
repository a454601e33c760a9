"""Which tensors an MLX folder stores, and how: the plain form, of which matrices may be quantised in groups.

The matrices of all experts of a layer are one tensor, [experts, out, in].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from converters.mlx.quantize import GRID
from seap_export.model.families import Experts, ModelSpec, names
from seap_export.model.families.names import ROUTED, Projection
from seap_export.model.families.stacked import Joint
from seap_export.pruning.rounding.grid import BlockQuantization, Way

#: Products that decide which experts count, or what is remembered.
_DECIDING: tuple[Projection, ...] = ("router", "shared_gate", "delta_b_proj", "delta_a_proj")
#: Group sizes in the order in which they are tried. If none divides its columns, a matrix is not quantised.
GROUPS = (64, 32)


@dataclass(frozen=True)
class MlxPrecision:
    """How weights are stored.

    Attributes:
        dtype: Dtype of scales and of what is not quantised; None: that of hf/, or float16 where that is float32.
    """

    dtype: torch.dtype | None
    bits: int | None = None


#: How a matrix may be rounded where each has bits of its own. A group has a scale and an offset of 16 bits, which is a
#: few of the scale's steps, so that float16 holds it.
WAYS = tuple(
    Way(bits, size, "zero" if bits in (5, 6) else "usual", beside=32)
    for bits in (2, 3, 4, 5, 6, 8)
    for size in (32, 64)
    if (bits, size) != (8, 32)
)
PRECISIONS: Mapping[str, MlxPrecision] = {
    "fp16": MlxPrecision(torch.float16),
    "bf16": MlxPrecision(torch.bfloat16),
    "fp32": MlxPrecision(torch.float32),
    "8bit": MlxPrecision(None, 8),
    "4bit": MlxPrecision(None, 4),
}
#: The precision of what has no bits of its own where others have.
_REST = MlxPrecision(torch.float16, 8)


class Layout:
    """The tensors that are stored of one model in one precision: their names, shapes and dtypes.

    Attributes:
        bits: The usual bits of a quantised number; None: nothing is quantised.
        shapes: Name and shape of every stored tensor, in the order of use.
    """

    def __init__(
        self,
        spec: ModelSpec,
        precision: str,
        stored: torch.dtype = torch.float16,
        grid: BlockQuantization | None = None,
    ) -> None:
        chosen = PRECISIONS.get(precision, _REST)
        self._own = {} if grid is None else {name: grid.of(name) for name, *_ in grid.others}
        narrow = torch.float16 if stored == torch.float32 else stored
        self.bits, self.dtype = chosen.bits, chosen.dtype or narrow
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._plain = spec.tensors()
        self._of_experts = _of_experts(spec)
        # They decide, and are small: never quantised, and the bias of a choice or a decay is not rounded either.
        layers = range(len(spec.layers))
        self._routers = {names.weight(router, i) for i in layers for router in _DECIDING}
        exact = ("selection_bias", "delta_a_log", "delta_dt_bias")
        self._exact = {names.tensor(name, i) for i in layers for name in exact}
        for name in self._plain:
            for stored_name, shape, dtype in self._parts(name):
                self.shapes[stored_name], self.dtypes[stored_name] = shape, dtype

    def group(self, name: str) -> int | None:
        """The group size of a tensor of the plain form; None: it is not quantised."""
        if self.bits is None or len(self._plain[name]) != 2 or name in self._routers:
            return None
        if name in self._own:
            return self._own[name].block_size
        return next((group for group in GROUPS if self._shape(name)[-1] % group == 0), None)

    def grid(self, name: str) -> BlockQuantization | None:
        """The grid of a matrix that is kept if the matrix is on it; None: it is not quantised, or anew."""
        if name in self._own:
            return self._own[name]
        return GRID if (self.bits, self.group(name)) == (GRID.bits, GRID.block_size) else None

    def bits_of(self, name: str) -> int:
        """Bits of a number of a quantised matrix."""
        return self._own[name].bits if name in self._own else self.bits or 0

    def rows(self, name: str, plain: torch.Tensor) -> torch.Tensor:
        """A tensor of the plain form as it is stored, a matrix of experts with their rows one after the other."""
        joint = self._of_experts.get(name)
        return plain if joint is None else joint.split(plain)[name].flatten(0, 1)

    def flat(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        """A stored tensor; of a matrix of experts, with their rows one after the other."""
        return stored.flatten(0, -2) if name in self._of_experts else stored

    def plain(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Reverses `rows`: a tensor of the plain form, given its rows as they are stored."""
        joint = self._of_experts.get(name)
        return rows if joint is None else joint.plain({name: rows.unflatten(0, (joint.experts, -1))})

    def parts(self, name: str) -> list[str]:
        """The names of the stored tensors that hold a tensor of the plain form."""
        return [stored for stored, _, _ in self._parts(name)]

    @property
    def unquantised(self) -> list[str]:
        """The matrices that are left as they are, although the precision quantises."""
        if self.bits is None:
            return []
        matrices = (name for name, shape in self._plain.items() if len(shape) == 2 and name not in self._routers)
        return [name for name in matrices if self.group(name) is None]

    def quantization(self) -> dict[str, Any] | None:
        """The entry `quantization` of config.json, as mlx-lm reads it; it names the matrices that are not as usual."""
        if self.bits is None:
            return None
        usual = {"group_size": GROUPS[0], "bits": self.bits, "mode": "affine"}
        others: dict[str, Any] = {}
        for name, shape in self._plain.items():
            group, module = self.group(name), name.removesuffix(".weight")
            entry = {**usual, "group_size": group, "bits": self.bits_of(name)} if group else False
            if len(shape) == 2 and entry != usual:
                others[module] = entry
        return usual | others

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape in which a tensor of the plain form is stored if it is not quantised."""
        joint = self._of_experts.get(name)
        return self._plain[name] if joint is None else joint.shape(self._plain[name])

    def _parts(self, name: str) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        shape, group = self._shape(name), self.group(name)
        if group is None or self.bits is None:
            yield name, shape, torch.float32 if name in self._exact else self.dtype
            return
        module, (*rows, columns) = name.removesuffix(".weight"), shape
        yield name, (*rows, columns * self.bits_of(name) // 32), torch.uint32
        yield f"{module}.scales", (*rows, columns // group), self.dtype
        yield f"{module}.biases", (*rows, columns // group), self.dtype


def _of_experts(spec: ModelSpec) -> dict[str, Joint]:
    """How the weights of experts are stored, by their names."""
    stored = {}
    for index, layer in enumerate(spec.layers):
        for experts in (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Experts)):
            for projection in ROUTED[1:]:
                name = names.weight(projection, index)
                stored[name] = Joint((name,), int(projection == experts.output), experts.num_experts)
    return stored
