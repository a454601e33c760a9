"""Model folders whose config or weights describe another block than the graph's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from planted.fault import ANY, Change, Fault, Layer, quiet
from planted.folders.model import config, tensors

Tensors = dict[str, torch.Tensor]
_LAYER = "model.layers.1."


def _roll(name: str, rows: int) -> Callable[[Tensors], None]:
    """The parts of a fused projection in another order."""

    def change(tensors: Tensors) -> None:
        tensors[f"{_LAYER}{name}.weight"] = tensors[f"{_LAYER}{name}.weight"].roll(rows, 0)

    return change


def _offset_twice(tensors: Tensors) -> None:
    """Gains of the plain form where the family stores them without 1."""
    for name in tensors:
        if "norm" in name:
            tensors[name] = tensors[name] + 1


def _config(id: str, base: str, change: Change, layer: Layer) -> Fault:
    return quiet("config", f"config: {id}", base, change, codes=(3, 7), layer=layer)


def _weights(id: str, base: str, change: Callable[[Tensors], None], layer: Layer) -> Fault:
    return quiet("weight", f"weights: {id}", base, tensors(change), codes=(3,), layer=layer)


FAULTS: tuple[Fault, ...] = (
    _config("soft cap of logits", "gemma3", config(final_logit_softcapping=8.5), None),
    _config("base of local rotations", "gemma3", config(rope_local_base_freq=10000.0), 1),
    _config("exact gelu", "gemma3", config(hidden_activation="gelu"), ANY),
    _config("a key that is not known", "half", config(residual_dropout_scale=0.5), ANY),
    _weights("offset of norms twice", "gemma3", _offset_twice, 0),
    _weights("values before queries and keys", "phi3", _roll("self_attn.qkv_proj", 48), 1),
)
