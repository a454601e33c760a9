"""Finds what overflows in fp16 by running a model layer by layer in float32, and the scaling that prevents it.

Every token of the vocabulary is tried twice, alone and in a text: what a token does depends on its row of the
embedding, and the largest activations are at the start of a text. All is looked at that a runtime may hold in fp16:
what operators give, and the scores of attention. Norms sum their squares in float32 in every runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass, output_stream
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.sublayers.operands import CHANNELS, PRODUCT
from seap_export.model.sources.weights import WeightReader

_LARGEST = 65504.0
#: Values are scaled below this: other texts may reach further than those tried. Most values are thousands of times
#: smaller than the largest, and must stay clear of the subnormal numbers, which begin at 0.00006.
_LIMIT = _LARGEST / 8
#: What cannot be scaled may come closer; and what could be, but is not, closer still, because a stream is largest at
#: the first token, and every token is tried there.
_FIXED_LIMIT, _UNSCALED_LIMIT = _LARGEST / 2, _LARGEST * 0.75
#: Tokens of a text of the trial, and positions of a batch.
_LENGTH, _BATCH = 48, 1024
#: Bytes of the hidden states that are in memory at once.
_MOST_BYTES = 256 << 20
#: Logits that are computed at once, where a bound does not rule out that they overflow.
_LOGITS = 1 << 25
#: What a watched layer calls the stream behind a number that scales it.
_STREAM = "stream"


def most_exponent(precision: Precision) -> int:
    """The largest exponent that leaves usual weights, of 0.02, as exact as they need to be.

    Times 2^-11 they are so deep among the subnormal numbers of fp16 that bf16 is as exact. The scales of int8 blocks
    are smaller: 2^-5 adds 4 % to the error of the 8 bits, 2^-7 half of it.
    """
    grid = precision.quantization
    return 5 if grid is not None and grid.bits == 8 else 10


def find_scaling(config: Mapping[str, Any], spec: ModelSpec, reader: WeightReader, precision: Precision) -> Scaling:
    """Finds the scaling that keeps a model's values within the range of fp16.

    Runs all tokens, alone and in texts behind the BOS token, if there is one.

    Args:
        reader: The model's weights in the plain form; one layer is in memory at a time, and is read again for every
            256 MiB of hidden states.
    """
    # transformers' norms without weights have a fixed epsilon, which could not be scaled in the comparison
    most = most_exponent(precision) if spec.family.block.norm_weight else 0
    try:
        return _scaling(config, spec, reader, _LIMIT * 2**most)
    except _TooLarge as error:
        raise InputError(
            f"{error}; use --precision bf16 on CUDA, or fp32 on the CPU (with int8 and int4, activations in bf16 or "
            "fp32)"
        ) from error


def refuse_overflow(config: Mapping[str, Any], spec: ModelSpec, reader: WeightReader, remedy: str) -> None:
    """Refuses a model of which a value is too large for fp16 as it is."""
    try:
        _scaling(config, spec, reader, _UNSCALED_LIMIT)
    except _TooLarge as error:
        raise InputError(f"{error}; {remedy}") from error


@torch.no_grad()
def _scaling(config: Mapping[str, Any], spec: ModelSpec, reader: WeightReader, most: float) -> Scaling:
    """The scaling of values up to `most`; none for weights that are not finite, which writers refuse."""
    trial = _Trial(most)
    read = {name: reader.read([tensor])[tensor] for name, tensor in _tables(spec).items()}
    embedding = Embedding.of(read)
    size = 4 * spec.width * (2 if spec.has_beside else 1)
    last = [reader.read([name])[name] for name in map(names.tensor, spec.norm_parts("norm"))]
    if not _are_finite([*read.values(), *last]):
        return Scaling()
    normed = logit = 0.0
    for texts in _texts(config, spec, max(1, _MOST_BYTES // size)):
        hidden = HiddenStates.embedded(spec, embedding, length_buckets(texts, _BATCH))
        for stream in hidden.streams:
            trial.see_stream(stream)
        for index in range(len(spec.layers)):
            tensors = reader.read(spec.layer_tensors(index))
            if not _are_finite(tensors.values()):
                return Scaling()
            for sublayer in spec.layers[index].sublayers:
                layer = _WatchedLayer(spec, index, tensors, only=sublayer.output)
                hidden.advance(layer, sublayer.output, partial(trial.see, index, sublayer))
                trial.see_peaks(index, sublayer, layer.peaks)
                del layer  # before the next sublayer is converted
            del tensors  # before the next layer is read
        read_by_head = [output_stream(spec, Norm(spec.norm, *last), stream) for stream in hidden.streams]
        normed = max(normed, *map(_peak, read_by_head))
        logit = max(logit, _largest_logit(spec, reader, read_by_head))
    scaling = trial.scaling()
    _refuse_beyond(_FIXED_LIMIT, math.ldexp(normed, -scaling.normed(spec)), "the last norm")
    _refuse_beyond(_FIXED_LIMIT, logit, "a logit")
    return scaling


def _tables(spec: ModelSpec) -> dict[str, str]:
    return {name: names.tensor(name) for name in spec.embedding_names}


def _are_finite(tensors: Any) -> bool:
    return all(math.isfinite(_peak(tensor)) for tensor in tensors)


def _texts(config: Mapping[str, Any], spec: ModelSpec, tokens: int) -> Iterator[list[list[int]]]:
    """Every token alone and once in a text behind the BOS token, in parts of about as many tokens."""
    bos = config.get("bos_token_id")
    start = [bos] if isinstance(bos, int) and 0 <= bos < spec.vocab_size else []
    ids = torch.randperm(spec.vocab_size, generator=torch.Generator().manual_seed(0)).tolist()
    length = max(1, min(_LENGTH, spec.max_position_embeddings) - len(start))
    texts = [[token] for token in ids]
    texts += [start + ids[first : first + length] for first in range(0, len(ids), length)]
    part, left = list[list[int]](), tokens
    for text in texts:
        if part and left < len(text):
            yield part
            part, left = [], tokens
        part.append(text)
        left -= len(text)
    yield part


def _largest_logit(spec: ModelSpec, reader: WeightReader, normed: Sequence[torch.Tensor]) -> float:
    """The largest magnitude of a logit, or 0 if the lengths of the vectors multiplied show that none is too large."""
    name = names.tensor("embed_tokens" if spec.tie_word_embeddings else "lm_head")
    bias = names.tensor("lm_head_bias") if spec.lm_head_bias else None
    tensors = reader.read([name] if bias is None else [name, bias])
    head = Head(tensors[name], None if bias is None else tensors[bias])
    longest = max(float(rows.float().norm(dim=-1).max()) for rows in head.weight.split(_LENGTH * _BATCH))
    added = 0.0 if head.bias is None else _peak(head.bias)
    room = (_FIXED_LIMIT - added) / longest if longest else math.inf
    largest = 0.0
    for rows in normed:
        for part in rows[rows.norm(dim=-1) > room].split(max(1, _LOGITS // spec.vocab_size)):
            largest = max(largest, _peak(head(part)))
    return largest


@cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16 several times as fast as in float32: it has AMX.

    Its range is that of float32, and the largest values differ by less than a hundredth.
    """
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # of recent releases of torch
    return bool(capabilities.get("amx_bf16"))


class _WatchedLayer(DecoderLayer):
    """Notes the largest value of each product, by projection, and of what is in between, by name."""

    def __init__(self, spec: ModelSpec, index: int, tensors: Mapping[str, torch.Tensor], only: Projection) -> None:
        super().__init__(spec, index, tensors, only=only)
        self.peaks: dict[str, float] = {}

    def see(self, what: str, values: Any) -> None:
        self._note(what, values())

    def read(self, output: Projection, stream: torch.Tensor) -> torch.Tensor:
        normed = super().read(output, stream)
        if self.spec.named(output).norm_before is not None:
            self._note("norm", normed)
        return normed

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=_multiplies_bfloat16()):
            product = super().linear(projection, x, rows, columns).float()
        self._note(projection, product)
        return product

    def scaled(self, output: Projection, total: torch.Tensor) -> torch.Tensor:
        scaled = super().scaled(output, total)
        self._note(_STREAM, scaled)
        return scaled

    def _note(self, what: str, values: torch.Tensor) -> None:
        self.peaks[what] = max(self.peaks.get(what, 0.0), _peak(values))


class _Trial:
    """The largest values so far: of the stream, and of the inputs and outputs of output projections by name."""

    def __init__(self, most: float) -> None:
        self._stream, self._most = 0.0, most
        self._outputs: dict[str, float] = {}
        self._inputs: dict[str, float] = {}

    def see_stream(self, stream: torch.Tensor) -> None:
        """Notes the largest magnitude of a batch's embeddings."""
        self._stream = max(self._stream, _peak(stream))

    def see(self, layer: int, sublayer: Sublayer, passed: SublayerPass) -> None:
        """Notes what a sublayer read and wrote for a batch."""
        name = names.tensor(sublayer.output, layer)
        self._stream = max(self._stream, _peak(passed.stream), _peak(passed.update))
        self._see_product(name, sublayer, _peak(passed.product))
        self._see_channels(name, max(map(_peak, passed.channels)))

    def see_peaks(self, layer: int, sublayer: Sublayer, peaks: Mapping[str, float]) -> None:
        """Refuses peaks that cannot be scaled: heads are rotated and cached as they are, and a gate is not linear.

        What can is scaled like the channels.
        """
        name = names.tensor(sublayer.output, layer)
        for what, peak in peaks.items():
            if what == _STREAM:
                self._stream = max(self._stream, peak)
            elif what == PRODUCT:
                self._see_product(name, sublayer, peak)
            elif what in (CHANNELS, sublayer.scalable):
                self._see_channels(name, peak)
            elif what in sublayer.readers:
                _refuse_beyond(_FIXED_LIMIT, peak, names.tensor(what, layer))
            elif what != sublayer.output:  # which `see` has noted
                _refuse_beyond(_FIXED_LIMIT, peak, f"{what} before {name}")
        if sublayer.scalable is None:
            _refuse_beyond(_FIXED_LIMIT, self._inputs.pop(name), f"the input of {name}")

    def _see_product(self, name: str, sublayer: Sublayer, peak: float) -> None:
        if sublayer.norm_after is not None:
            self._outputs[name] = max(self._outputs.get(name, 0.0), peak)
        else:
            self._stream = max(self._stream, peak)

    def _see_channels(self, name: str, peak: float) -> None:
        self._inputs[name] = max(self._inputs.get(name, 0.0), peak)

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
        _refuse_beyond(self._most, peak, what)
        return max(0, math.ceil(math.log2(peak / _LIMIT))) if peak else 0


class _TooLarge(Exception):
    """A value is too large for fp16: which, and how large it is."""


def _refuse_beyond(limit: float, peak: float, what: str) -> None:
    if peak > limit:
        raise _TooLarge(f"fp16 cannot hold this model: {what} reaches {peak:.3g}")


def _peak(values: torch.Tensor) -> float:
    """The largest magnitude, infinite where one is not a number; 0 of none."""
    if not values.numel():
        return 0.0
    low, high = (float(bound) for bound in values.aminmax())
    return max(-low, high) if math.isfinite(low) and math.isfinite(high) else math.inf
