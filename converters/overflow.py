"""Finds the parts of a model that overflow in fp16 by running it layer by layer in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from seap_export.families import ModelSpec, names
from seap_export.layers.batches import length_buckets
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.hidden_states import HalfPass, HiddenStates
from seap_export.layers.layer import DecoderLayer
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
        spec: What it computes.
        reader: Its weights in the plain form; one layer is in memory at a time.
    """
    table = names.tensor("embed_tokens")
    batches = length_buckets(_tokens(config, spec), _TRIAL[0] * _TRIAL[1])
    hidden = HiddenStates.embedded(spec, reader.read([table])[table], batches)
    trial = _Trial(max(map(_peak, hidden.streams)))
    for index in range(len(spec.layers)):
        layer = DecoderLayer(spec, index, reader.read(spec.layer_tensors(index)))
        for half in HALVES:
            hidden.advance(layer, half, partial(trial.see, (index, half)))
    return WideParts(stream=bool(trial.halves) or trial.peak > _LIMIT, halves=frozenset(trial.halves))


class _Trial:
    """The largest value of the stream so far, and the halves that leave the limit."""

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.halves: set[tuple[int, Half]] = set()

    def see(self, place: tuple[int, Half], passed: HalfPass) -> None:
        self.peak = max(self.peak, _peak(passed.stream), _peak(passed.written))
        if max(_peak(passed.channels), _peak(passed.product)) > _LIMIT:
            self.halves.add(place)


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
