"""Finds the parts of a model that overflow in fp16 by running it layer by layer in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seap_export.layers.batches import length_buckets
from seap_export.activations.layers import HALVES, Half, LayerRunner, embed
from seap_export.families import ModelSpec
from seap_export.sources.weights import WeightReader

__all__ = ["WideParts", "find_wide_parts"]

#: Larger values are kept out of fp16, which ends at 65,504: other tokens may reach further than those tried.
_LIMIT = 65504 / 4
#: Rows and tokens per row of the trial.
_TRIAL = (8, 48)


@dataclass(frozen=True)
class WideParts:
    """The parts that an fp16 graph computes in float32.

    Attributes:
        stream: Whether the residual stream and the norms that read it are float32.
        halves: Layers and projections (o_proj, down_proj) whose product, including its inputs, is float32.
    """

    stream: bool = False
    halves: frozenset[tuple[int, Half]] = frozenset()

    def __post_init__(self) -> None:
        if self.halves and not self.stream:
            raise ValueError("products in float32 need a residual stream of float32")


@torch.no_grad()
def find_wide_parts(config: Mapping[str, Any], spec: ModelSpec, reader: WeightReader) -> WideParts:
    """Runs random tokens after the BOS token, if there is one; the largest activations are at the start of a text.

    Args:
        config: The model's config.json.
        spec: Its shapes.
        reader: Its weights; one layer is in memory at a time.
    """
    runner, names = LayerRunner(config, spec), spec.family.names
    batches = length_buckets(_tokens(config, spec), _TRIAL[0] * _TRIAL[1])
    table = reader.read([spec.family.tensor("embed_tokens")])[spec.family.tensor("embed_tokens")]
    (stream,) = embed(table, batches)
    peak, halves = _peak(stream), set()
    for index in range(len(spec.layers)):
        prefix = names["layer"].format(layer=index)
        tensors = reader.read([name for name in spec.layer_tensors(index) if name.startswith(prefix)])
        with runner.layer(index, tensors) as layer:
            for half in HALVES:
                channels = layer.channels(half, stream)
                written = layer.projections[half](channels)
                stream = stream + written
                peak = max(peak, _peak(stream))
                if max(_peak(channels), _peak(written)) > _LIMIT:
                    halves.add((index, half))
    return WideParts(stream=bool(halves) or peak > _LIMIT, halves=frozenset(halves))


def _tokens(config: Mapping[str, Any], spec: ModelSpec) -> list[list[int]]:
    rows, length = _TRIAL
    length = min(length, spec.max_position_embeddings)
    ids: list[list[int]] = torch.randint(
        spec.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)
    ).tolist()
    bos = config.get("bos_token_id")
    return [[bos, *row[1:]] for row in ids] if isinstance(bos, int) else ids


def _peak(values: torch.Tensor) -> float:
    return values.abs().max().item()
