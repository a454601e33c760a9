"""Finds what overflows in fp16 by running a model layer by layer in float32, and the scaling that prevents it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling
from seap_export.errors import InputError
from seap_export.families import ModelSpec, Sublayer, names
from seap_export.families.names import Projection
from seap_export.layers.batches import length_buckets
from seap_export.layers.embedding import Embedding
from seap_export.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.sublayers.norm import Norm
from seap_export.layers.sublayers.operands import stream_of
from seap_export.sources.weights import WeightReader

_LARGEST = 65504.0
#: Values are scaled below this: other tokens may reach further than those tried. Most values are thousands of times
#: smaller than the largest, and must stay clear of the subnormal numbers, which begin at 0.00006.
_LIMIT = _LARGEST / 8
#: What cannot be scaled may come closer.
_FIXED_LIMIT = _LARGEST / 2
#: Rows and tokens per row of the trial.
_TRIAL = (8, 48)


def most_exponent(precision: Precision) -> int:
    """The largest exponent that leaves usual weights, of 0.02, as exact as they need to be.

    Times 2^-11 they are so deep among the subnormal numbers of fp16 that bf16 is as exact. The scales of int8 blocks
    are smaller: 2^-5 adds 4 % to the error of the 8 bits, 2^-7 half of it.
    """
    how = precision.quantization
    return 5 if how is not None and how.bits == 8 else 10


@torch.no_grad()
def find_scaling(config: Mapping[str, Any], spec: ModelSpec, reader: WeightReader, precision: Precision) -> Scaling:
    """Runs random tokens after the BOS token, if there is one; the largest activations are at the start of a text.

    Args:
        config: The model's config.json.
        spec: What it computes.
        reader: Its weights in the plain form; one layer is in memory at a time.
        precision: That of the graph, with activations in fp16.

    Raises:
        InputError: A value is too large for fp16, and no scaling can prevent it.
    """
    tables = {name: names.tensor(name) for name in spec.embedding_names}
    parts = [names.tensor(part) for part in spec.norm_parts("norm")]
    batches = length_buckets(_tokens(config, spec), _TRIAL[0] * _TRIAL[1])
    read = reader.read(tables.values())
    embedding = Embedding.of({name: read[tensor] for name, tensor in tables.items()})
    hidden = HiddenStates.embedded(spec, embedding, batches)
    # transformers' norms without weights have a fixed epsilon, which could not be scaled in the comparison
    most = most_exponent(precision) if spec.family.block.norm_weight else 0
    trial = _Trial(max(map(_peak, hidden.streams)), most)
    for index in range(len(spec.layers)):
        tensors = reader.read(spec.layer_tensors(index))
        for sublayer in spec.layers[index].sublayers:
            layer = _WatchedLayer(spec, index, tensors, only=sublayer.output)
            hidden.advance(layer, sublayer.output, partial(trial.see, index, sublayer))
            trial.see_products(index, sublayer, layer.peaks)
            del layer  # before the next sublayer is converted
        del tensors  # before the next layer is read
    scaling = trial.scaling()
    norm = Norm(spec.norm, *reader.read(parts).values())
    last = max(_peak(norm(stream_of(stream, spec.hidden_size))) for stream in hidden.streams)
    _refuse_beyond(_FIXED_LIMIT, math.ldexp(last, -scaling.normed(spec)), "the last norm")
    return scaling


class _WatchedLayer(DecoderLayer):
    """Notes the largest value of each product."""

    def __init__(self, spec: ModelSpec, index: int, tensors: Mapping[str, torch.Tensor], only: Projection) -> None:
        super().__init__(spec, index, tensors, only=only)
        self.peaks: dict[Projection, float] = {}

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        product = super().linear(projection, x, rows, columns)
        self.peaks[projection] = max(self.peaks.get(projection, 0.0), _peak(product))
        return product


class _Trial:
    """The largest values so far: of the stream, and of the inputs and outputs of output projections by name."""

    def __init__(self, stream: float, most: int) -> None:
        self._stream, self._most = stream, most
        self._outputs: dict[str, float] = {}
        self._inputs: dict[str, float] = {}
        self._fixed_inputs: dict[str, float] = {}

    def see(self, layer: int, sublayer: Sublayer, passed: SublayerPass) -> None:
        name = names.tensor(sublayer.output, layer)
        self._stream = max(self._stream, _peak(passed.stream), _peak(passed.update))
        if sublayer.norm_after is not None:
            self._outputs[name] = max(self._outputs.get(name, 0.0), _peak(passed.product))
        else:
            self._stream = max(self._stream, _peak(passed.product))
        inputs = self._fixed_inputs if sublayer.scalable is None else self._inputs
        inputs[name] = max(inputs.get(name, 0.0), *map(_peak, passed.channels))

    def see_products(self, layer: int, sublayer: Sublayer, peaks: Mapping[Projection, float]) -> None:
        """Refuses what cannot be scaled: heads are rotated, compared and cached as they are, and a gate is not linear.

        What can is scaled like the channels.
        """
        for projection in sublayer.readers:
            if projection != sublayer.scalable:
                _refuse_beyond(_FIXED_LIMIT, peaks[projection], names.tensor(projection, layer))
        name = names.tensor(sublayer.output, layer)
        if sublayer.scalable is None:
            _refuse_beyond(_FIXED_LIMIT, self._fixed_inputs[name], f"the input of {name}")
        else:
            self._inputs[name] = max(self._inputs[name], peaks[sublayer.scalable])

    def scaling(self) -> Scaling:
        """The smallest exponents that keep all of it below the limit."""
        outputs, inputs = (
            dict(self._exponents(peaks, side)) for peaks, side in ((self._outputs, "output"), (self._inputs, "input"))
        )
        return Scaling(self._exponent(self._stream, "the residual stream"), outputs, inputs)

    def _exponents(self, peaks: Mapping[str, float], side: str) -> Iterator[tuple[str, int]]:
        for name, peak in peaks.items():
            exponent = self._exponent(peak, f"the {side} of {name}")
            if exponent:
                yield name, exponent

    def _exponent(self, peak: float, what: str) -> int:
        _refuse_beyond(_LIMIT * 2**self._most, peak, what)
        return max(0, math.ceil(math.log2(peak / _LIMIT))) if peak else 0


def _refuse_beyond(limit: float, peak: float, what: str) -> None:
    if peak > limit:
        raise InputError(
            f"fp16 cannot hold this model: {what} reaches {peak:.3g}; use --precision bf16 on CUDA, or fp32 on the "
            "CPU (with int8 and int4, activations in bf16 or fp32)"
        )


def _tokens(config: Mapping[str, Any], spec: ModelSpec) -> list[list[int]]:
    rows, length = _TRIAL
    length = min(length, spec.max_position_embeddings)
    ids: list[list[int]] = torch.randint(
        spec.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)
    ).tolist()
    bos = config.get("bos_token_id")
    return [[bos, *row[1:]] for row in ids] if isinstance(bos, int) else ids


def _peak(values: torch.Tensor) -> float:
    """The largest magnitude; 0 if it is not finite, because weights that are not are refused when they are written."""
    peak: float = values.abs().max().item() if values.numel() else 0.0
    return peak if math.isfinite(peak) else 0.0
