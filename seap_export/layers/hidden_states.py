"""The hidden states of a model's texts, advanced half by half: the one walk through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from seap_export.families import ModelSpec
from seap_export.layers.attention import rms_norm
from seap_export.layers.batches import Batch
from seap_export.layers.halves import Half
from seap_export.layers.layer import DecoderLayer

__all__ = ["HalfPass", "HiddenStates", "Visitor", "logits", "output_stream"]


@dataclass(frozen=True)
class HalfPass:
    """What one batch was in one half of a layer; all float32.

    Attributes:
        place: Index of the batch.
        channels: Input of o_proj or down_proj, [tokens, channels].
        product: Its output, [tokens, hidden_size].
        written: What was added to the stream, [tokens, hidden_size].
        stream: The stream after that, [tokens, hidden_size].
    """

    place: int
    channels: torch.Tensor
    product: torch.Tensor
    written: torch.Tensor
    stream: torch.Tensor


Visitor = Callable[[HalfPass], None]


class HiddenStates:
    """The residual stream at the real tokens of each batch, float32 [tokens, hidden_size] each.

    Attributes:
        batches: The batches.
        streams: Their hidden states.
    """

    def __init__(self, batches: Sequence[Batch], streams: Sequence[torch.Tensor]) -> None:
        self.batches, self.streams = list(batches), list(streams)

    @classmethod
    def embedded(cls, spec: ModelSpec, table: torch.Tensor, batches: Sequence[Batch]) -> HiddenStates:
        """The embeddings of the tokens; `table` is [vocab_size, hidden_size]."""
        multiplier = spec.block.embedding_multiplier
        streams = (batch.packed(functional.embedding(batch.input_ids, table).float()) for batch in batches)
        return cls(batches, [stream if multiplier == 1.0 else stream * multiplier for stream in streams])

    def copy(self) -> HiddenStates:
        """The same batches with streams of their own."""
        return HiddenStates(self.batches, [stream.clone() for stream in self.streams])

    def advance(self, layer: DecoderLayer, half: Half, visit: Visitor = lambda passed: None) -> None:
        """Passes one half of a layer in place, and shows the visitor each batch."""
        for place, (batch, stream) in enumerate(zip(self.batches, self.streams, strict=True)):
            channels = layer.channels(half, stream, batch)
            product = layer.project(half, channels)
            written = layer.written(half, product)
            stream += written
            visit(HalfPass(place, channels, product, written, stream))


def output_stream(spec: ModelSpec, gain: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    """What the LM head multiplies: the last norm of the stream, times the multiplier of the logits."""
    normed = rms_norm(stream, gain.float(), spec.rms_norm_eps)
    multiplier = spec.block.logits_multiplier
    return normed if multiplier == 1.0 else normed * multiplier


def logits(spec: ModelSpec, head: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
    """The logits of tokens, float32 [tokens, vocab_size]; `normed` is their `output_stream`."""
    product = functional.linear(normed, head.float())
    cap = spec.block.logits_softcap
    return product if cap is None else torch.tanh(product / cap) * cap
