"""How much the model's predictions depend on each place in the residual stream.

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

from seap_export.activations.batches import Batch
from seap_export.activations.layers import HALVES, DecoderLayer, LayerRunner
from seap_export.sources.source import Source

__all__ = ["SENSITIVITY_TOKENS", "residual_sensitivity", "sensitivity_texts"]

#: Tokens whose gradients are taken: each contributes hidden_size squares, so that a few hundred are plenty.
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
    """E[|g|²] / hidden_size behind each half of each layer, for each task; float64 [num_hidden_layers, 2].

    Goes through the layers backwards, one in memory at a time.

    Args:
        source: The model.
        runner: Runs its layers.
        batches: Token ids of each task's texts.
        inputs: For each layer, the hidden states that went into it.
        outputs: The hidden states behind the last layer.
    """
    gradients = _last_gradients(source, batches, outputs)
    counts = {task: sum(int(batch.real.sum()) for batch in own) for task, own in batches.items()}
    found = {task: torch.zeros(len(inputs), len(HALVES), dtype=torch.float64) for task in batches}
    for index in reversed(range(len(inputs))):
        with runner.layer(index, source.read_layer(index)) as layer:
            for task, own in batches.items():
                for position, batch in enumerate(own):
                    behind = gradients[task][position]
                    found[task][index, 1] += _square(behind, batch)
                    middle, before = _backward(layer, inputs[index][task][position], behind)
                    found[task][index, 0] += _square(middle, batch)
                    gradients[task][position] = before
    return {task: own / (counts[task] * source.spec.hidden_size) for task, own in found.items()}


def _square(gradient: torch.Tensor, batch: Batch) -> torch.Tensor:
    return gradient[batch.real].double().square().sum()


def _backward(layer: DecoderLayer, hidden: torch.Tensor, behind: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients between the halves and before the layer, of the one behind it."""
    with torch.enable_grad():
        before = hidden.clone().requires_grad_(True)
        middle = before + layer.projections["o_proj"](layer.channels("o_proj", before))
        after = middle + layer.projections["down_proj"](layer.channels("down_proj", middle))
        at_middle, at_before = torch.autograd.grad(after, (middle, before), behind)
    return at_middle, at_before


def _last_gradients(
    source: Source, batches: Mapping[str, Sequence[Batch]], outputs: Mapping[str, Sequence[torch.Tensor]]
) -> dict[str, list[torch.Tensor]]:
    """Gradients of log p(y) behind the last layer, 0 at padding."""
    norm = nn.RMSNorm(source.spec.hidden_size, source.spec.rms_norm_eps)
    norm.weight = nn.Parameter(source.read_outer("norm").float(), requires_grad=False)
    head = source.read_outer("embed_tokens" if source.spec.tie_word_embeddings else "lm_head").float()
    return {
        task: [
            _gradient(norm, head, hidden, batch) for batch, hidden in zip(batches[task], outputs[task], strict=True)
        ]
        for task in batches
    }


def _gradient(norm: Any, head: torch.Tensor, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.zeros_like(hidden)
    rows = []
    for block in hidden[batch.real].split(_LOGIT_TOKENS):
        with torch.enable_grad():
            stream = block.clone().requires_grad_(True)
            log_p = nn.functional.linear(norm(stream), head).log_softmax(-1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            rows.append(torch.autograd.grad(log_p.gather(1, drawn).sum(), stream)[0])
    gradient[batch.real] = torch.cat(rows)
    return gradient
