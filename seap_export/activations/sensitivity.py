"""How much the model's predictions depend on each position in the residual stream.

An error e added to the residual stream of a token changes the predictions by KL ~ 1/2 eᵀ F e, F the Fisher information
of the prediction with respect to the stream there (Kullback 1959, section 2.6). F is estimated by gradients of
log p(y) with y drawn from the model's own prediction, F = E[g gᵀ], and summarised by its mean diagonal,
E[|g|²] / hidden_size: one number for each half of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from seap_export.families import ModelSpec
from seap_export.layers.batches import Batch
from seap_export.layers.halves import HALVES
from seap_export.layers.hidden_states import logits, output_stream
from seap_export.layers.layer import DecoderLayer
from seap_export.sources.source import Source

__all__ = ["SENSITIVITY_TOKENS", "last_gradients", "residual_sensitivity", "sensitivity_texts"]

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
    batches: Mapping[str, Sequence[Batch]],
    inputs: Sequence[Mapping[str, Sequence[torch.Tensor]]],
    last: Mapping[str, Sequence[torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """E[d² |g|²] / hidden_size of each half of each layer, for each task; float64 [num_hidden_layers, 2].

    d is the factor between the half's gain-weighted product and what it adds to the stream (`DecoderLayer.factor`), 1
    in most families.

    Goes through the layers backwards, with one in memory at a time. All hidden states are [tokens, hidden_size], of
    the real tokens of a batch.

    Args:
        source: The model.
        batches: Token ids of each task's texts.
        inputs: For each layer, the hidden states that went into it.
        last: For each task the result of `last_gradients`.
    """
    gradients = {task: list(own) for task, own in last.items()}
    counts = {task: sum(int(batch.real.sum()) for batch in own) for task, own in batches.items()}
    found = {task: torch.zeros(len(inputs), len(HALVES), dtype=torch.float64) for task in batches}
    for index in reversed(range(len(inputs))):
        tensors = source.reader.read(source.spec.layer_tensors(index))  # known to be finite since the way forward
        layer = DecoderLayer(source.spec, index, tensors)
        for task, own in batches.items():
            for position, batch in enumerate(own):
                after = gradients[task][position]
                squares, before = _backward(layer, batch, inputs[index][task][position], after)
                found[task][index] += squares
                gradients[task][position] = before
    return {task: own / (counts[task] * source.spec.hidden_size) for task, own in found.items()}


def _backward(
    layer: DecoderLayer, batch: Batch, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of d² |g|² after each half, float64 [2], and the gradient before the layer, given the one after it."""
    streams, factors = [hidden.clone()], []
    with torch.enable_grad():
        streams[0].requires_grad_(True)
        for half in HALVES:
            product = layer.project(half, layer.channels(half, streams[-1], batch))
            factors.append(layer.factor(half, product.detach()))
            streams.append(streams[-1] + layer.written(half, product))
        at_middle, at_before = torch.autograd.grad(streams[2], (streams[1], streams[0]), gradient)
    squares = [
        (own * factor).double().square().sum() for own, factor in zip((at_middle, gradient), factors, strict=True)
    ]
    return torch.stack(squares), at_before


def last_gradients(
    spec: ModelSpec, gain: torch.Tensor, head: torch.Tensor, outputs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Gradients of log p(y) after the last layer, float32 [tokens, hidden_size] for each batch.

    Args:
        spec: The model.
        gain: The gain of its last norm, [hidden_size].
        head: Its LM head, [vocab_size, hidden_size].
        outputs: The hidden states after the last layer.
    """
    head = head.float()
    return [_gradient(spec, gain, head, hidden) for hidden in outputs]


def _gradient(spec: ModelSpec, gain: torch.Tensor, head: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """With u the logits before they are capped, the gradient of log p(y) at the LM head's input z is headᵀ at_u.

    Without a cap, at_u is the one-hot vector of y minus p, so that the gradient is head_y - E[head]; autograd does the
    norm.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []
    for block in hidden.split(_LOGIT_TOKENS):
        with torch.enable_grad():
            stream = block.clone().requires_grad_(True)
            normed = output_stream(spec, gain, stream)
        capped = logits(spec, head, normed.detach())
        p = capped.softmax(-1)
        drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
        if spec.block.logits_softcap is None:
            at_normed = head[drawn] - p @ head
        else:
            at_logits = -p
            at_logits[torch.arange(len(drawn)), drawn] += 1.0
            at_normed = (at_logits * (1 - (capped / spec.block.logits_softcap).square())) @ head
        rows.append(torch.autograd.grad(normed, stream, at_normed)[0])
    return torch.cat(rows)
