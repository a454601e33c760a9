"""Fits a checkpoint's experts into transformers' modules, which hold a layer's in two tensors since version 5."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.families.names import ROUTED, Projection
from seap_export.model.families.stacked import Joint, Stacked, stacked_projections


@dataclass(frozen=True)
class ExpertMatrices:
    """A parameter of transformers' modules, [experts, out, in], of which one expert's is made at a time."""

    parts: Sequence[tuple[torch.Tensor, ...]]
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, expert: int | torch.Tensor) -> torch.Tensor:
        """The matrix of one expert, [out, in]."""
        return torch.cat([part.to(self.dtype) for part in self.parts[int(expert)]])

    def to(self, device: torch.device) -> ExpertMatrices:
        return ExpertMatrices([tuple(part.to(device) for part in parts) for parts in self.parts], self.dtype)


class ExpertModules:
    """The parameters of a model's layers, by their names in modules and in checkpoints."""

    def __init__(self, spec: ModelSpec, parameters: Collection[str]) -> None:
        self._family, self._layers = spec.family, len(spec.layers)
        #: Whether checkpoints have the modules' own parameters.
        self._is_stored = spec.family.experts is not None and spec.family.experts.are_parameters
        every = {index: stacked_projections(spec, index) for index in range(len(spec.layers))}
        self._stacked: dict[int, Mapping[Projection, Stacked | Joint]] = {
            index: stacked for index, stacked in every.items() if stacked
        }
        self.are_joint = all(self._parameters(index)[-1] in parameters for index in self._stacked)

    def _parameters(self, index: int) -> tuple[str, str, str]:
        """The names of the parameters of a layer's router, of gate and up, and of the output projection."""
        rules, prefix = self._family.experts, self._family.names["layer"].format(layer=index)
        assert rules is not None
        mixture = prefix + rules.path("")
        return f"{mixture}{rules.router}.weight", f"{mixture}experts.gate_up_proj", f"{mixture}experts.down_proj"

    def matrices(self, layer: int | None = None) -> list[str]:
        """The names of the parameters that hold experts, of a layer or of all."""
        return [name for index in self._stacked if layer in (None, index) for name in self._parameters(index)[1:]]

    def filled(
        self, index: int, stored: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, ExpertMatrices]]:
        """The parameters of a layer, given its tensors in a checkpoint: those of its experts by themselves."""
        renamed = self._family.renamed(index)
        tensors = {renamed.get(name, name): tensor for name, tensor in stored.items()}
        if (stacked := self._stacked.get(index)) is None:
            return tensors, {}
        router, gate_up, down = self._parameters(index)
        if self._is_stored:
            dtype = tensors[router].dtype
            matrices = {name: [(one,) for one in tensors.pop(name)] for name in (gate_up, down)}
            return tensors, {name: ExpertMatrices(parts, dtype) for name, parts in matrices.items()}
        parts = [
            [stacked[name].of_expert(stored, expert) for expert in range(stacked[name].experts)] for name in ROUTED[1:]
        ]
        for name in {part for matrices in stacked.values() for part in matrices.parts}:
            del tensors[name]
        table = tensors[router] = tensors.pop(self._router(index))
        both, output = list(zip(*parts[:2], strict=True)), [(one,) for one in parts[2]]
        return tensors, {gate_up: ExpertMatrices(both, table.dtype), down: ExpertMatrices(output, table.dtype)}

    def stored(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in a checkpoint, given those of all parameters."""
        stored = dict(shapes)
        for index in range(self._layers):
            names = {held: name for name, held in self._family.renamed(index).items() if held in shapes}
            stored |= {name: stored.pop(held) for held, name in names.items()}
        for index, stacked in () if self._is_stored else self._stacked.items():
            router, gate_up, down = self._parameters(index)
            stored[self._router(index)] = stored.pop(router)
            (experts, both, hidden_size), (_, _, width) = stored.pop(gate_up), stored.pop(down)
            rows, columns = (experts * both // 2, hidden_size), (hidden_size, experts * width)
            for name, plain in zip(ROUTED[1:], (rows, rows, columns), strict=True):
                stored |= dict.fromkeys(stacked[name].parts, stacked[name].shape(plain))
        return stored

    def _router(self, index: int) -> str:
        return self._family.stored("router", index) + ".weight"
