"""Refits the output projections of a mixture's experts to the tokens that they now get.

The projections of a token's experts write into one sum, so they are fitted one after another: each to what is left of
the target on its own tokens, given the others as they are (block coordinate descent). With c the channels of an expert
on its tokens, which contain the router's weights, and R what is left of the target, its weights change by

    D = E[R cᵀ] (E[c cᵀ] + r I)⁻¹,   r = ridge x tr(E[c cᵀ]) / tokens,

which is the refit of `shrink.refit` without a bias. An expert that few tokens reach has a large r and hardly changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from seap_export.model.families import Experts
from seap_export.model.layers.hidden_states import HiddenStates, SublayerOutput
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.streams import MemoryStreams
from seap_export.model.layers.sublayers.experts import expert_channels, router_weights
from seap_export.pruning.shrink.refit import solved
from seap_export.pruning.shrink.target import refit_target

#: Gives E[c cᵀ] of the channels of a part, float64.
Moment = Callable[[], torch.Tensor]
#: Gives the matrix that is stored for a fitted one, float64 [hidden_size, neurons].
Store = Callable[[torch.Tensor, Moment], torch.Tensor]
#: Rows of moments that are computed at a time.
_ROWS = 4096


class ExpertFit:
    """The fit of one mixture: what its product lacks of the target, float32 [tokens, hidden_size] for each batch.

    Args:
        weights: The weight of each token, float32 [tokens] for each batch.
    """

    def __init__(
        self, experts: Experts, layer: DecoderLayer, changed: HiddenStates, weights: Sequence[torch.Tensor]
    ) -> None:
        self._experts, self._layer, self._changed = experts, layer, changed
        self._weights, self._lacking = list(weights), MemoryStreams(len(weights))
        self._routing = [router_weights(layer, experts, stream) for stream in changed.streams]

    def add(self, exact: DecoderLayer, passed: SublayerOutput) -> None:
        """Takes account of a batch."""
        number, output = passed.batch_index, self._experts.output
        stream, batch = self._changed.streams[number], self._changed.batches[number]
        target, factors = refit_target(exact, output, passed, stream)
        self._weights[number] = self._weights[number].to(stream.device) * factors
        self._lacking[number] = target - self._layer.channels_and_product(output, stream, batch)[1]

    def fitted(self, weight: torch.Tensor, ridge: float, store: Store) -> torch.Tensor:
        """The new weight of the output projection, in the dtype of the old one; call it after all batches.

        Args:
            weight: The weight before, [hidden_size, channels].
        """
        fitted = weight.clone()
        for expert in range(self._experts.num_experts):
            columns = self._experts.of_expert(expert)
            before = weight[:, columns].to(self._routing[0].device).double()
            after = self._fitted(expert, before, ridge, store)
            if after is not None:
                self._subtract(expert, after.float() - before.float())
                fitted[:, columns] = after.to(fitted)
        return fitted

    def _fitted(self, expert: int, before: torch.Tensor, ridge: float, store: Store) -> torch.Tensor | None:
        """The weights of an expert to be stored; None: no token reaches it."""
        cross = torch.zeros_like(before)
        square, total, squares = self._square(expert, cross)
        trace = float(square.trace())
        if not trace > 0.0:
            return None
        square.diagonal().add_(ridge * trace * squares / total**2)  # one over the effective number of its tokens
        return store(solved(square, cross).add_(before), lambda: self._square(expert)[0].div_(total))

    def _square(self, expert: int, cross: torch.Tensor | None = None) -> tuple[torch.Tensor, float, float]:
        """The sum of w c cᵀ, that of the weights w of its tokens, and that of their squares.

        The sum of w R cᵀ is added to `cross`.
        """
        width = self._experts.moe_intermediate_size
        square = torch.zeros(width, width, dtype=torch.float64, device=self._routing[0].device)
        total = squares = 0.0
        for number in range(len(self._weights)):
            tokens, channels = self._channels(expert, number)
            token_weights, inputs = self._weights[number].index_select(0, tokens).double(), channels.double()
            weighted = inputs * token_weights[:, None]
            for start in range(0, width, _ROWS):  # of a wide expert, the matrix is too large to be held twice
                square[start : start + _ROWS] += weighted[:, start : start + _ROWS].T @ inputs
            if cross is not None:
                cross += self._lacking[number].index_select(0, tokens).double().T @ weighted
            total, squares = total + float(token_weights.sum()), squares + float(token_weights.square().sum())
        return square, total, squares

    def _subtract(self, expert: int, change: torch.Tensor) -> None:
        """Takes account of a change of an expert's weights."""
        for number in range(len(self._weights)):
            tokens, channels = self._channels(expert, number)
            self._lacking[number] = self._lacking[number].index_add(0, tokens, channels @ change.T, alpha=-1.0)

    def _channels(self, expert: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An expert's tokens in a batch, int64 [n], and its channels for them, float32 [n, neurons]."""
        stream, weights = self._changed.streams[number], self._routing[number]
        return expert_channels(self._layer, self._experts, stream, weights, expert)
