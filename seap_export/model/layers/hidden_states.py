"""The hidden states of a model's texts, advanced sublayer by sublayer: the one walk through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.streams import MemoryStreams, Streams
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.sublayers.operands import stream_of


@dataclass(frozen=True)
class SublayerOutput:
    """The output of one sublayer for one batch; all tensors are float32 [tokens, hidden_size].

    Attributes:
        batch_index: Index of the batch.
        held: The output of the sublayer before it, if both are normalised together; None: they are not.
        update: The update that was added to the stream, or is held.
        stream: The stream after that, before a number of the layer scales it, or what is held.
    """

    batch_index: int
    product: torch.Tensor
    held: torch.Tensor | None
    update: torch.Tensor
    stream: torch.Tensor


@dataclass(frozen=True)
class SublayerPass(SublayerOutput):
    """The output of one sublayer for one batch, and the channels that it was made from.

    Attributes:
        channels: Input of the output projection, float32 [tokens, channels]; or of each expert, for the tokens that
            reach it, [tokens, neurons].
    """

    channels: tuple[torch.Tensor, ...]


Visitor = Callable[[SublayerPass], None]


class HiddenStates:
    """The hidden states at the real tokens of each batch, float32 [tokens, width] each; see `ModelSpec`.

    Attributes:
        streams: Their hidden states, wherever these are kept.
    """

    def __init__(self, batches: Sequence[Batch], streams: Streams) -> None:
        self.batches, self.streams = list(batches), streams
        self._before = streams.companion()

    def read(self, layer: DecoderLayer, output: Projection, batch_index: int) -> torch.Tensor:
        """The stream that a sublayer reads in a batch: the newest, or the one that the sublayer before it read."""
        return (self._before if layer.spec.named(output).beside else self.streams)[batch_index]

    def add(self, layer: DecoderLayer, output: Projection, batch_index: int, update: torch.Tensor) -> torch.Tensor:
        """Adds the update of a sublayer to the hidden states of a batch, and returns the sum, [tokens, hidden_size].

        The stream before the sublayer is kept if the next one reads it, too.
        """
        before = self.streams[batch_index]
        if layer.spec.is_read_again(output):
            self._before[batch_index] = before
        total = layer.total(output, before, update)
        self.streams[batch_index] = layer.after(output, before, total, self.batches[batch_index])
        return total

    @classmethod
    def embedded(
        cls, spec: ModelSpec, embedding: Embedding, batches: Sequence[Batch], streams: Streams | None = None
    ) -> HiddenStates:
        """The embeddings of the tokens and of their positions.

        Args:
            streams: Where the hidden states are kept; None: in memory, wherever they are computed.
        """
        hidden = cls(batches, MemoryStreams(len(batches)) if streams is None else streams)
        for batch_index, batch in enumerate(batches):
            hidden.streams[batch_index] = embedding(spec, batch)
        return hidden

    def advance(self, layer: DecoderLayer, output: Projection, visit: Visitor = lambda passed: None) -> None:
        """Passes one sublayer, and shows the visitor each batch."""
        for batch_index, batch in enumerate(self.batches):
            stream = self.read(layer, output, batch_index)
            channels, product = layer.channels_and_product(output, stream, batch)
            held = layer.held(output, self.streams[batch_index])
            update = layer.update(output, product, held)
            total = self.add(layer, output, batch_index, update)
            visit(SublayerPass(batch_index, product, held, update, total, channels))


def output_stream(spec: ModelSpec, norm: Norm, stream: torch.Tensor) -> torch.Tensor:
    """The input of the LM head: the stream through the final norm, times the multiplier of the logits."""
    normed = norm(stream_of(stream, spec.hidden_size))
    multiplier = spec.block.logits_multiplier
    return normed if multiplier == 1.0 else normed * multiplier


def logits(spec: ModelSpec, head: Head, normed: torch.Tensor) -> torch.Tensor:
    """The logits of tokens, float32 [tokens, vocab_size]; `normed` is their `output_stream`."""
    product, cap = head(normed), spec.block.logits_softcap
    return product if cap is None else product.div_(cap).tanh_().mul_(cap)


def log_predictions(spec: ModelSpec, norm: Norm, head: Head, stream: torch.Tensor) -> torch.Tensor:
    """The logarithms of the predictions after some tokens, float32 [tokens, vocab_size], given the last stream."""
    return logits(spec, head, output_stream(spec, norm, stream)).log_softmax(-1)
