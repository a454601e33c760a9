"""What the dense model's LM head multiplies, which gives its predictions whenever they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seap_export.distillation.student import OuterTensors
from seap_export.layers.batches import Batch
from seap_export.layers.compute import Compute
from seap_export.layers.halves import HALVES, half_tensors
from seap_export.layers.hidden_states import HiddenStates, output_stream
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.streams import Storage, Streams
from seap_export.sources.source import Source

__all__ = ["dense_outputs"]


@torch.no_grad()
def dense_outputs(
    source: Source, outer: OuterTensors, batches: Sequence[Batch], storage: Storage, compute: Compute
) -> Streams:
    """The last norm of the dense model's stream, float32 [tokens, hidden_size] for each batch.

    One layer is in memory at a time. What an interrupted call saved is not computed again.

    Args:
        source: The dense model.
        outer: What it has besides its layers.
        batches: The texts.
        storage: Where streams are kept.
        compute: Where layers are computed.
    """
    spec, streams = source.spec, storage.streams("outputs", source.spec, batches)
    layers, saved = len(spec.layers), streams.saved()
    first = max(saved, default=0)
    hidden = HiddenStates(batches, streams)
    if saved:
        streams.load(first)
    else:
        HiddenStates.embedded(spec, outer.embedding, batches, streams)
    for index in range(first, layers):
        tensors = source.read_layer(index)
        for half in HALVES:
            hidden.advance(DecoderLayer(spec, index, half_tensors(tensors, index, half), compute.device), half)
        streams.save(index + 1)
        streams.forget(index + 1)
    if first <= layers:
        for place in range(len(batches)):
            streams[place] = output_stream(spec, outer.gain, streams[place])
        streams.save(layers + 1)
        streams.forget(layers + 1)
    return streams
