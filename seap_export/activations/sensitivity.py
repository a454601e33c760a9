"""How much the model's predictions depend on each position in the residual stream.

An error e added to the residual stream of a token changes the predictions by KL ~ 1/2 eᵀ F e, F the Fisher information
of the prediction with respect to the stream there (Kullback 1959, section 2.6). F is estimated by gradients of
log p(y) with y drawn from the model's own prediction, F = E[g gᵀ], and summarised by its mean diagonal,
E[|g|²] / hidden_size: one number for each half of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from seap_export.layers.batches import Batch
from seap_export.activations.layers import HALVES, DecoderLayer, LayerRunner
from seap_export.sources.source import Source

__all__ = ["SENSITIVITY_TOKENS", "residual_sensitivity", "sensitivity_texts"]

#: Tokens whose gradients are taken. Each contributes hidden_size squares, so a few hundred are plenty.
SENSITIVITY_TOKENS = 512
#: Tokens whose logits are in memory at once.
_LOGIT_TOKENS = 256


def sensitivity_texts(sequences: Sequence[Sequence[int]]) -> int:
    """How many texts from the front hold `SENSITIVITY_TOKENS` tokens, or all."""
    tokens = 0
    for number, sequence in enumerate(sequences, start=1):
        tokens += len(sequence)
        if tokens >= SENSITIVITY_TOKENS:
            return number
    return len(sequences)


def residual_sensitivity(
    source: Source,
    runner: LayerRunner,
    batches: Mapping[str, Sequence[Batch]],
    inputs: Sequence[Mapping[str, Sequence[torch.Tensor]]],
    outputs: Mapping[str, Sequence[torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """E[|g|²] / hidden_size after each half of each layer, for each task; float64 [num_hidden_layers, 2].

    Goes through the layers backwards, with one in memory at a time. All hidden states are [tokens, hidden_size], of
    the real tokens of a batch.

    Args:
        source: The model.
        runner: Runs its layers.
        batches: Token ids of each task's texts.
        inputs: For each layer, the hidden states that went into it.
        outputs: The hidden states after the last layer.
    """
    gradients = _last_gradients(source, outputs)
    counts = {task: sum(int(batch.real.sum()) for batch in own) for task, own in batches.items()}
    found = {task: torch.zeros(len(inputs), len(HALVES), dtype=torch.float64) for task in batches}
    for index in reversed(range(len(inputs))):
        tensors = source.reader.read(source.spec.layer_tensors(index))  # known to be finite since the way forward
        with runner.layer(index, tensors) as layer:
            for task, own in batches.items():
                for position, batch in enumerate(own):
                    after = gradients[task][position]
                    found[task][index, 1] += after.double().square().sum()
                    middle, before = _backward(layer, batch, inputs[index][task][position], after)
                    found[task][index, 0] += middle.double().square().sum()
                    gradients[task][position] = before
    return {task: own / (counts[task] * source.spec.hidden_size) for task, own in found.items()}


def _backward(
    layer: DecoderLayer, batch: Batch, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients between the halves and before the layer, given the one after it."""
    with torch.enable_grad():
        before = hidden.clone().requires_grad_(True)
        middle = before + layer.projections["o_proj"](layer.real_channels("o_proj", before, batch))
        after = middle + layer.projections["down_proj"](layer.real_channels("down_proj", middle, batch))
        at_middle, at_before = torch.autograd.grad(after, (middle, before), gradient)
    return at_middle, at_before


def _last_gradients(source: Source, outputs: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """Gradients of log p(y) after the last layer."""
    norm = nn.RMSNorm(source.spec.hidden_size, source.spec.rms_norm_eps)
    norm.weight = nn.Parameter(source.read_outer("norm").float(), requires_grad=False)
    head = source.read_outer("embed_tokens" if source.spec.tie_word_embeddings else "lm_head").float()
    return {task: [_gradient(norm, head, hidden) for hidden in own] for task, own in outputs.items()}


def _gradient(norm: Any, head: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """With z the normalised stream, the gradient of log p(y) is head_y - E[head] at z; autograd does the norm."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for block in hidden.split(_LOGIT_TOKENS):
        with torch.enable_grad():
            stream = block.clone().requires_grad_(True)
            normed = norm(stream)
        p = nn.functional.linear(normed.detach(), head).softmax(-1)
        drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
        rows.append(torch.autograd.grad(normed, stream, head[drawn] - p @ head)[0])
    return torch.cat(rows)
