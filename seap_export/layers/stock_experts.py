"""Where transformers' modules hold mixtures of experts: since version 5 all experts of a layer in two tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from seap_export.families import ModelSpec
from seap_export.families.names import ROUTED, Projection
from seap_export.families.stacked import Stacked, stacked_projections

__all__ = ["ExpertModules"]


class ExpertModules:
    """The parameters of a model's layers, by their names in modules and in checkpoints.

    Attributes:
        are_joint: Whether the modules hold all experts of a layer together, if there are any.

    Args:
        spec: The model.
        parameters: The full names of the parameters of transformers' model.
    """

    def __init__(self, spec: ModelSpec, parameters: Collection[str]) -> None:
        self._family = spec.family
        every = {index: stacked_projections(spec, index) for index in range(len(spec.layers))}
        self._stacked: dict[int, Mapping[Projection, Stacked]] = {index: own for index, own in every.items() if own}
        self.are_joint = all(self._parameters(index)[-1] in parameters for index in self._stacked)

    def _parameters(self, index: int) -> tuple[str, str, str]:
        """Those of a layer's router, of gate and up, and of the output projection."""
        rules, prefix = self._family.experts, self._family.names["layer"].format(layer=index)
        assert rules is not None
        mixture = prefix + rules.module
        return f"{mixture}.{rules.router}.weight", f"{mixture}.experts.gate_up_proj", f"{mixture}.experts.down_proj"

    def filled(self, index: int, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters of a layer, given its tensors in a checkpoint."""
        tensors = dict(stored)
        if (stacked := self._stacked.get(index)) is None:
            return tensors
        router, gate_up, down = self._parameters(index)
        parts = [torch.stack([tensors.pop(part) for part in stacked[name].parts]) for name in ROUTED[1:]]
        table = tensors.pop(self._router(index))
        return {**tensors, router: table, gate_up: torch.cat(parts[:2], 1), down: parts[2]}

    def stored(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in a checkpoint, given those of all parameters."""
        stored = dict(shapes)
        for index, stacked in self._stacked.items():
            router, gate_up, down = self._parameters(index)
            stored[self._router(index)] = stored.pop(router)
            (_, both, hidden_size), (_, _, width) = stored.pop(gate_up), stored.pop(down)
            for name in ROUTED[1:3]:
                stored |= dict.fromkeys(stacked[name].parts, (both // 2, hidden_size))
            stored |= dict.fromkeys(stacked[ROUTED[3]].parts, (hidden_size, width))
        return stored

    def _router(self, index: int) -> str:
        return self._family.stored("router", index) + ".weight"
