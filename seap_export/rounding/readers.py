"""What the projections at the start of a sublayer are fitted and rounded by: the tokens that reach their rows.

They share their input, so that one covariance serves all. In a mixture each expert has its own: its tokens count by
the square of the router's weight, which what it writes is multiplied by. As many tokens of all kinds as an input has
channels count beside them, so that an expert that few tokens reach is not rounded for these alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from seap_export.activations.covariance import CovarianceAccumulator
from seap_export.families import Experts
from seap_export.families.names import Projection
from seap_export.layers.hidden_states import HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.sublayers.experts import router_weights

__all__ = ["ReaderSums", "Readers"]


@dataclass(frozen=True)
class ReaderSums:
    """Sums over the inputs of some rows, with those in floats as targets.

    Attributes:
        rows: The rows of each projection that reads the stream.
        sums: Of inputs [tokens, hidden_size] in the rounded model, and targets of the same shape.
        tokens: The effective number of tokens.
    """

    rows: slice
    sums: CovarianceAccumulator
    tokens: float


class Readers:
    """The inputs of one sublayer in two models.

    Args:
        layer: The layer in floats.
        output: The output projection of the sublayer.
        rounded: The hidden states of the rounded model.
        floats: Those of the model in floats.
        weights: The weight of each token, float32 [tokens] for each batch.
        tokens: The effective number of all tokens.
    """

    def __init__(
        self,
        layer: DecoderLayer,
        output: Projection,
        rounded: HiddenStates,
        floats: HiddenStates,
        weights: Sequence[torch.Tensor],
        tokens: float,
    ) -> None:
        self._layer, self._output, self._weights, self._tokens = layer, output, weights, tokens
        self._hidden = rounded, floats

    def sums(self) -> Iterator[ReaderSums]:
        """Those of all rows, or of each expert's in turn."""
        every = CovarianceAccumulator()
        for number, weights in enumerate(self._weights):
            every.update(*self._inputs(number), weights)
        sublayer = self._layer.spec.named(self._output)
        if not isinstance(sublayer, Experts):
            yield ReaderSums(slice(None), every, self._tokens)
            return
        rounded, _ = self._hidden
        squares = [router_weights(self._layer, sublayer, stream).square_() for stream in rounded.streams]
        counts = [one * weights[:, None] for one, weights in zip(squares, self._weights, strict=True)]
        for expert in range(sublayer.num_experts):
            yield self._of_expert(every, [one[:, expert] for one in counts], sublayer.of_expert(expert))

    def _of_expert(self, every: CovarianceAccumulator, counts: Sequence[torch.Tensor], rows: slice) -> ReaderSums:
        total = sum(float(one.double().sum()) for one in counts)
        if total == 0.0:
            return ReaderSums(rows, every.scaled(every.weight), self._tokens)
        width = self._layer.hidden_size
        mean = sum(float(one.double().square().sum()) for one in counts) / total
        sums = every.scaled(width * mean)
        for number, one in enumerate(counts):
            tokens = torch.nonzero(one)[:, 0]
            sums.update(*self._inputs(number, tokens), one[tokens])
        return ReaderSums(rows, sums, total / mean + width)

    def _inputs(self, number: int, tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        rounded, floats = (
            self._layer.read(self._output, stream if tokens is None else stream.index_select(0, tokens))
            for stream in (hidden.read(self._layer, self._output, number) for hidden in self._hidden)
        )
        return rounded, floats
