"""Objectives of training: each gives the loss of a batch, and its gradient with respect to the last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import log_predictions, logits, output_stream
from seap_export.model.layers.streams import Streams
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.model.sources.source import Source


@dataclass(frozen=True)
class OuterTensors:
    """The tensors outside the layers, which training leaves as they are."""

    embedding: Embedding
    norm: Norm
    head: Head

    @classmethod
    def read(cls, source: Source) -> OuterTensors:
        """Those of a model, whose head may be its embedding."""
        embedding = source.read_embedding()
        head = source.read_head(embedding if source.spec.tie_word_embeddings else None)
        return cls(embedding, source.read_norm(), head)


class Objective(Protocol):
    """A loss over the tokens of a training step."""

    def at_end(self, batch_index: int, stream: torch.Tensor, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The weighted sum of the loss over a batch, in nats, and its gradient with respect to the stream.

        Args:
            batch_index: The number of the batch, by which the objective knows its targets.
            stream: Hidden states after the last layer, float32 [tokens, width].
            weights: Weights of the tokens, float32 [tokens].
        """
        ...


class Imitation:
    """KL(dense || shrunk) of the predictions.

    With u the logits before they are capped, the gradient at u is q - p, q the shrunk and p the dense prediction,
    times the cap's derivative.
    """

    def __init__(self, spec: ModelSpec, outer: OuterTensors, targets: Streams) -> None:
        self._spec, self._outer, self._targets = spec, outer, targets

    def at_end(self, batch_index: int, stream: torch.Tensor, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        loss, rows, end = 0.0, [], _End(self._spec, self._outer)
        for block, wanted, weight in _blocks(stream, self._targets[batch_index], weights):
            capped = end.open(block)
            log_q = capped.log_softmax(-1)
            log_p = log_predictions(self._spec, self._outer.norm, self._outer.head, wanted)
            p = log_p.exp()
            loss += float((weight.double() * (p * (log_p - log_q)).sum(-1).double()).sum())
            rows.append(end.gradient(log_q.exp_().sub_(p).mul_(weight[:, None]), capped))
        return loss, torch.cat(rows)


class RightTokens:
    """The cross entropy of the tokens that are right.

    Args:
        targets: Ids of the right next tokens, int64 [tokens] for each batch; those without weight do not matter.
    """

    def __init__(self, spec: ModelSpec, outer: OuterTensors, targets: Sequence[torch.Tensor]) -> None:
        self._spec, self._outer, self._targets = spec, outer, targets

    def at_end(self, batch_index: int, stream: torch.Tensor, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        loss, rows, end = 0.0, [], _End(self._spec, self._outer)
        for block, right, weight in _blocks(stream, self._targets[batch_index], weights):
            capped, right = end.open(block), right[:, None]
            log_q = capped.log_softmax(-1)
            loss -= float((weight.double() * log_q.gather(1, right)[:, 0].double()).sum())
            at_logits = log_q.exp_()
            at_logits.scatter_add_(1, right, -torch.ones_like(right, dtype=at_logits.dtype))
            rows.append(end.gradient(at_logits.mul_(weight[:, None]), capped))
        return loss, torch.cat(rows)

    def are_right(self, batch_index: int, stream: torch.Tensor) -> torch.Tensor:
        """Whether the right token is the likeliest one at each position, bool [tokens]."""
        found = []
        for block, right, _ in _blocks(stream, self._targets[batch_index], torch.ones(len(stream))):
            normed = output_stream(self._spec, self._outer.norm, block)
            found.append(logits(self._spec, self._outer.head, normed).argmax(-1) == right)
        return torch.cat(found)


class _End:
    """The last norm and the head, forwards and back, for one block of tokens at a time."""

    def __init__(self, spec: ModelSpec, outer: OuterTensors) -> None:
        self._spec, self._outer = spec, outer

    def open(self, block: torch.Tensor) -> torch.Tensor:
        """The logits of a block, [tokens, vocabulary]."""
        with torch.enable_grad():
            self._leaf = block.detach().requires_grad_(True)
            self._normed = output_stream(self._spec, self._outer.norm, self._leaf)
        return logits(self._spec, self._outer.head, self._normed.detach())

    def gradient(self, at_logits: torch.Tensor, capped: torch.Tensor) -> torch.Tensor:
        """The gradient at the block that was opened last; overwrites both arguments."""
        if (cap := self._spec.block.logits_softcap) is not None:
            at_logits *= 1 - capped.div_(cap).square_()
        return torch.autograd.grad(self._normed, self._leaf, self._outer.head.transposed(at_logits))[0]


def _blocks(stream: torch.Tensor, *others: torch.Tensor) -> zip[tuple[torch.Tensor, ...]]:
    """The tensors in blocks of so many tokens that their logits fit into memory, on one device."""
    on_device = (stream, *(values.to(stream.device) for values in others))
    return zip(*(values.split(LOGIT_TOKENS) for values in on_device), strict=True)
