"""The channels of an MLP and of a shared expert: the activations of their neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.nn import functional

from seap_export.model.families import Mlp, SharedExpert
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.operands import Operands

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "sigmoid": torch.sigmoid,
}


def mlp_channels(operands: Operands, mlp: Mlp, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The activations of the neurons, [tokens, neurons]; no token needs to know of others."""
    x = operands.read(mlp.output, stream)
    if not mlp.is_gated:
        return ACTIVATIONS[mlp.activation](operands.linear("up_proj", x))
    gate = ACTIVATIONS[mlp.activation](operands.linear("gate_proj", x))
    return gate * operands.linear("up_proj", x)


def shared_channels(operands: Operands, shared: SharedExpert, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The activations of a shared expert's neurons, [tokens, neurons], times its scale if it has one."""
    x = operands.read(shared.output, stream)
    gate = ACTIVATIONS[shared.activation](operands.linear("shared_gate_proj", x))
    gate = operands.linear("shared_gate", x).sigmoid() * gate if shared.has_scale else gate
    return gate * operands.linear("shared_up_proj", x)
