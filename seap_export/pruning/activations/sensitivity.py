"""Measures how much the model's predictions depend on each position in the residual stream.

An error e added to the residual stream of a token changes the predictions by KL ~ 1/2 eᵀ F e, F the Fisher information
of the prediction with respect to the stream there (Kullback 1959, section 2.6). F is estimated by gradients of
log p(y) with y drawn from the model's own prediction, F = E[g gᵀ], and summarised by its mean diagonal,
E[|g|²] / hidden_size: one number for each sublayer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import logits, output_stream
from seap_export.model.layers.kept import keep_tensors, kept_layers, kept_tensors, path_of
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.model.sources.source import Source

#: Tokens whose gradients are taken. Each contributes hidden_size squares, so a few hundred are plenty.
SENSITIVITY_TOKENS = 512
_INPUTS, _GRADIENT, _SQUARES = "inputs", "gradient", "squares"


def sensitivity_texts(sequences: Sequence[Sequence[int]]) -> int:
    """How many texts from the front hold `SENSITIVITY_TOKENS` tokens, or all."""
    tokens = 0
    for number, sequence in enumerate(sequences, start=1):
        tokens += len(sequence)
        if tokens >= SENSITIVITY_TOKENS:
            return number
    return len(sequences)


class Backward:
    """The backward pass through the layers, with one in memory at a time.

    The input of each layer is written in the forward pass, and the gradient behind each in the backward pass, so that
    memory does not grow with the number of layers, and interrupted work goes on where it was.
    """

    def __init__(self, source: Source, batches: Sequence[Batch], folder: Path, device: torch.device) -> None:
        self._source, self._batches, self._folder, self._device = source, list(batches), folder, device

    @property
    def number(self) -> int:
        return len(self._batches)

    @property
    def has_begun(self) -> bool:
        """Whether the forward pass is done."""
        return bool(kept_layers(self._folder, _GRADIENT))

    def has_inputs(self, layers: int) -> bool:
        """Whether the inputs of the first layers, this many, are kept."""
        return set(range(layers)) <= set(kept_layers(self._folder, _INPUTS))

    def forget(self) -> None:
        """Removes the gradients from the folder."""
        for layer in kept_layers(self._folder, _GRADIENT):
            path_of(self._folder, _GRADIENT, layer).unlink()

    def keep_inputs(self, index: int, streams: Sequence[torch.Tensor]) -> None:
        """Keeps the hidden states of the batches, [tokens, hidden_size] each, that go into a layer."""
        self._keep(_INPUTS, index, streams, {})

    def begin(self, norm: Norm, head: Head, outputs: Sequence[torch.Tensor]) -> None:
        """Keeps the gradients behind the last layer."""
        layers = len(self._source.spec.layers)
        most = max(len(layer.sublayers) for layer in self._source.spec.layers)
        squares = torch.zeros(layers, most, dtype=torch.float64)
        gradients = last_gradients(self._source.spec, norm, head, outputs)
        self._keep(_GRADIENT, layers, gradients, {_SQUARES: squares})

    def run(self) -> torch.Tensor:
        """E[d² |g|²] / hidden_size after each sublayer of each layer, float64 [layers, sublayers].

        d is the factor between the sublayer's gain-weighted product and what it adds to the stream
        (`DecoderLayer.factor`), 1 in most families.
        """
        spec, behind = self._source.spec, kept_layers(self._folder, _GRADIENT)[0]
        gradients = kept_tensors(path_of(self._folder, _GRADIENT, behind))
        squares = gradients.pop(_SQUARES)
        for index in reversed(range(behind)):
            # known to be finite since the way forward
            layer = DecoderLayer(spec, index, self._source.reader.read(spec.layer_tensors(index)), self._device)
            inputs = kept_tensors(path_of(self._folder, _INPUTS, index))
            for number, batch in enumerate(self._batches):
                hidden, after = (tensors[str(number)].to(self._device) for tensors in (inputs, gradients))
                sums, before = _backward(layer, batch, hidden, after)
                squares[index, : len(sums)] += sums.cpu()
                gradients[str(number)] = before.cpu()
            del layer  # before the next one is read
            self._keep(
                _GRADIENT, index, [gradients[str(number)] for number in range(self.number)], {_SQUARES: squares}
            )
            path_of(self._folder, _GRADIENT, index + 1).unlink()
        return squares / (sum(batch.num_tokens for batch in self._batches) * spec.hidden_size)

    def _keep(self, name: str, index: int, values: Sequence[torch.Tensor], others: Mapping[str, torch.Tensor]) -> None:
        tensors = {str(number): value for number, value in enumerate(values)}
        keep_tensors(path_of(self._folder, name, index), {**tensors, **others})


def _backward(
    layer: DecoderLayer, batch: Batch, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of d² |g|² after each sublayer, float64 [sublayers], and the gradient before the layer.

    `gradient` is the one after it.
    """
    totals, factors = list[torch.Tensor](), []
    before = read = stream = hidden.clone()
    with torch.enable_grad():
        before.requires_grad_(True)
        for sublayer in layer.spec.sublayers:
            output, read = sublayer.output, read if sublayer.beside else stream
            _, product = layer.channels_and_product(output, read, batch)
            held = layer.held(output, stream)
            factors.append(layer.factor(output, product.detach(), held if held is None else held.detach()))
            totals.append(layer.total(output, stream, layer.update(output, product, held)))
            stream = layer.after(output, stream, totals[-1], batch)
        at_before, *at_totals = torch.autograd.grad(stream, (before, *totals), gradient)
    squares = [
        (gradient_at * factor).double().square().sum() for gradient_at, factor in zip(at_totals, factors, strict=True)
    ]
    return torch.stack(squares), at_before


def last_gradients(spec: ModelSpec, norm: Norm, head: Head, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of log p(y) after the last layer, float32 [tokens, hidden_size] for each batch."""
    return [_gradient(spec, norm, head, hidden) for hidden in outputs]


def _gradient(spec: ModelSpec, norm: Norm, head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """The gradient of log p(y) with respect to a batch's hidden states, float32 [tokens, hidden_size].

    With u the logits before they are capped, it is headᵀ at_u at the LM head's input, with at_u the gradient at u.

    Without a cap, at_u is the one-hot vector of y minus p; autograd does the norm. Labels are drawn on the CPU, so
    that they are the same on every device.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []
    for block in hidden.split(LOGIT_TOKENS):
        with torch.enable_grad():
            stream = block.clone().requires_grad_(True)
            normed = output_stream(spec, norm, stream)
        capped = logits(spec, head, normed.detach())
        p = capped.softmax(-1)
        drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(p.device)
        at_logits = p.neg_().scatter_add_(1, drawn, torch.ones_like(drawn, dtype=p.dtype))
        if spec.block.logits_softcap is not None:
            at_logits *= 1 - capped.div_(spec.block.logits_softcap).square_()
        rows.append(torch.autograd.grad(normed, stream, head.transposed(at_logits))[0])
    return torch.cat(rows)
