"""What the dense model makes of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from seap_export.layers.batches import Batch
from seap_export.layers.compute import Compute
from seap_export.layers.hidden_states import HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.streams import Streams, choose_storage
from seap_export.sources.source import Source

__all__ = ["dense_streams"]

_NAME = "fresh"


@torch.no_grad()
def dense_streams(
    source: Source,
    batches: Sequence[Batch],
    folder: Path,
    compute: Compute,
    on_layer: Callable[[object], None] = lambda layer: None,
) -> Streams:
    """The stream after the last layer for each batch; it continues what an interrupted call left in the folder.

    Args:
        source: The dense model.
        batches: The texts.
        folder: An existing folder for the streams.
        compute: Where layers are computed, and with how much memory.
        on_layer: Called with the index of each layer that all texts have passed.
    """
    spec, tokens = source.spec, sum(batch.num_tokens for batch in batches)
    streams = choose_storage(spec, tokens, compute, folder).streams(_NAME, spec, batches)
    hidden, first = HiddenStates(batches, streams), max(streams.saved(), default=0)
    if first:
        streams.load(first)
    else:
        HiddenStates.embedded(spec, source.read_embedding(), batches, streams)
    for index in range(len(spec.layers)):
        if index >= first:
            layer = DecoderLayer(spec, index, source.read_layer(index), compute.device)
            for output in spec.layers[index].outputs:
                hidden.advance(layer, output)
            streams.save(index + 1)
            streams.forget(index + 1)
        on_layer(index)
    return streams
