"""Takes experts apart that a checkpoint stores in one tensor, in a family that stores them one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.families.names import ROUTED
from seap_export.model.sources.weights import WeightReader


@dataclass(frozen=True)
class _Part:
    """A matrix of an expert: in the rows of `joint` [experts, rows, columns], part `index` of `number` equal ones."""

    joint: str
    expert: int
    index: int
    number: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[self.expert].chunk(self.number)[self.index]


class _ExpertsApart:
    """A `WeightReader` with a tensor for each matrix of each expert."""

    def __init__(self, reader: WeightReader, parts: dict[str, _Part]) -> None:
        self._reader, self._parts = reader, parts

    def dtypes(self) -> dict[str, torch.dtype]:
        stored = self._reader.dtypes()
        return stored | {name: stored[part.joint] for name, part in self._parts.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        stored = self._reader.shapes()
        joint = {part.joint for part in self._parts.values()}
        apart = {
            name: (stored[one.joint][1] // one.number, *stored[one.joint][2:]) for name, one in self._parts.items()
        }
        return {name: shape for name, shape in stored.items() if name not in joint} | apart

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors; the matrix of an expert is a view of the stored tensor."""
        wanted = list(names)
        stored = self._reader.read(
            dict.fromkeys(self._parts[name].joint if name in self._parts else name for name in wanted)
        )
        return {
            name: self._parts[name].of(stored[self._parts[name].joint]) if name in self._parts else stored[name]
            for name in wanted
        }


def with_experts_apart(reader: WeightReader, spec: ModelSpec) -> WeightReader:
    """The reader of a checkpoint that may store experts as transformers' modules hold them.

    Those have `gate_up_proj` and `down_proj` of all experts of a layer, [experts, out, in].
    """
    shapes = reader.shapes()
    parts = {name: part for layer in range(len(spec.layers)) for name, part in _parts(spec, layer, shapes)}
    return _ExpertsApart(reader, parts) if parts else reader


def _parts(spec: ModelSpec, layer: int, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, _Part]]:
    rules, family = spec.family.experts, spec.family
    if rules is None or "{expert}" not in family.names["experts_down_proj"]:
        return
    experts = family.names["layer"].format(layer=layer) + rules.path("experts")
    for joint, held in ((f"{experts}.gate_up_proj", ROUTED[1:3]), (f"{experts}.down_proj", ROUTED[3:])):
        for expert in range(shapes.get(joint, (0,))[0]):
            for index, projection in enumerate(held):
                name = family.stored(projection, layer).format(expert=expert) + ".weight"
                yield name, _Part(joint, expert, index, len(held))
