"""Refitting the output projections of a mixture's experts to the tokens that they now get.

The projections of a token's experts write into one sum, so they are fitted one after another: each to what is left of
the target on its own tokens, given the others as they are (block coordinate descent). With c the channels of an expert
on its tokens, which contain the router's weights, and R what is left of the target, its weights change by

    D = E[R cᵀ] (E[c cᵀ] + r I)⁻¹,   r = ridge x tr(E[c cᵀ]) / tokens,

which is the refit of `shrink.refit` without a bias. An expert that few tokens reach has a large r and hardly changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from seap_export.families import Experts
from seap_export.families.names import Projection
from seap_export.layers.hidden_states import HiddenStates, SublayerOutput
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.streams import MemoryStreams
from seap_export.layers.sublayers.experts import expert_channels, routing_weights
from seap_export.shrink.target import refit_target

__all__ = ["Store", "fit_experts"]

#: Gives the matrix that is stored for a fitted one, float64 [hidden_size, neurons], and E[c cᵀ], float64.
Store = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Advances(Protocol):
    """The dense model's hidden states, computed or recorded."""

    def advance(self, layer: DecoderLayer, output: Projection, visit: Callable[[SublayerOutput], None]) -> None: ...


def fit_experts(
    experts: Experts,
    exact: DecoderLayer,
    layer: DecoderLayer,
    dense: _Advances,
    changed: HiddenStates,
    weights: Sequence[torch.Tensor],
    ridge: float,
    store: Store,
) -> torch.Tensor:
    """Advances the dense stream past a mixture of experts, and returns the new weight of the changed model's.

    Args:
        experts: The changed model's mixture.
        exact: The dense layer.
        layer: The changed one.
        dense: The dense model's hidden states.
        changed: The changed model's, which stay where they are.
        weights: The weight of each token, float32 [tokens] for each batch.
        ridge: Strength of the ridge.
        store: Makes what is stored, which is what the other experts and later layers correct.
    """
    fit = _Fit(experts, exact, layer, changed, weights)
    dense.advance(exact, experts.output, fit.begin)
    fitted = layer.weight(experts.output).clone()
    for expert in range(experts.num_experts):
        columns = experts.of_expert(expert)
        before = fitted[:, columns].double()
        after = fit.fitted(expert, before, ridge, store)
        if after is not None:
            fitted[:, columns] = after.to(fitted)
            fit.subtract(expert, fitted[:, columns] - before.float())
    return fitted


class _Fit:
    """What the product lacks of its target, float32 [tokens, hidden_size] for each batch."""

    def __init__(
        self,
        experts: Experts,
        exact: DecoderLayer,
        layer: DecoderLayer,
        changed: HiddenStates,
        weights: Sequence[torch.Tensor],
    ) -> None:
        self._experts, self._exact, self._layer, self._changed = experts, exact, layer, changed
        self._weights, self._lacking = list(weights), MemoryStreams(len(weights))
        self._routing = [
            routing_weights(layer.linear("router", layer.read(experts.output, stream)), experts)
            for stream in changed.streams
        ]

    def begin(self, passed: SublayerOutput) -> None:
        number, output = passed.batch_index, self._experts.output
        stream, batch = self._changed.streams[number], self._changed.batches[number]
        target, factors = refit_target(self._exact, output, passed, stream)
        self._weights[number] = self._weights[number].to(stream.device) * factors
        self._lacking[number] = target - self._layer.product(output, self._layer.channels(output, stream, batch))

    def fitted(self, expert: int, before: torch.Tensor, ridge: float, store: Store) -> torch.Tensor | None:
        """The weights of an expert to be stored; None: no token reaches it."""
        square = before.new_zeros(before.shape[1], before.shape[1])
        cross = torch.zeros_like(before)
        total = squares = 0.0
        for number in range(len(self._weights)):
            tokens, channels = self._channels(expert, number)
            own, inputs = self._weights[number].index_select(0, tokens).double(), channels.double()
            weighted = inputs * own[:, None]
            square += weighted.T @ inputs
            cross += self._lacking[number].index_select(0, tokens).double().T @ weighted
            total, squares = total + float(own.sum()), squares + float(own.square().sum())
        trace = float(square.trace())
        if not trace > 0.0:
            return None
        moment = square / total
        square.diagonal().add_(ridge * trace * squares / total**2)  # one over the effective number of its tokens
        change = torch.cholesky_solve(cross.T, torch.linalg.cholesky(square)).T
        return store(before + change, moment)

    def subtract(self, expert: int, change: torch.Tensor) -> None:
        """Takes account of a change of an expert's weights."""
        for number in range(len(self._weights)):
            tokens, channels = self._channels(expert, number)
            self._lacking[number] = self._lacking[number].index_add(0, tokens, channels @ change.T, alpha=-1.0)

    def _channels(self, expert: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An expert's tokens in a batch, int64 [n], and its channels for them, float32 [n, neurons]."""
        x = self._layer.read(self._experts.output, self._changed.streams[number])
        return expert_channels(self._layer, self._experts, x, self._routing[number], expert)
