"""What one layer keeps within a budget of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seap_export.families import ModelSpec
from seap_export.plan.plan import LayerPlan
from seap_export.scores import LayerScores

__all__ = ["Kept", "LayerChoices", "least_weights"]

#: What a layer keeps, and how many prunable weights that is.
Kept = tuple[LayerPlan, int]


@dataclass(frozen=True)
class _Attention:
    """A way to keep attention: some KV groups, and in each the same number of its best query heads."""

    kv_groups: tuple[int, ...]
    heads: tuple[int, ...]
    weights: int
    kept: float


class LayerChoices:
    """All ways to shrink one layer, ready to be asked for the best within a budget.

    A KV group is worth the scores of the query heads it would keep, so that for each pair (groups, heads a
    group) there is one best set. The rest of the budget goes to the best neurons, rounded to `align`.
    Heads and neurons are weighed against each other by the scores of their channels as they are: o_proj and
    down_proj write into the same residual stream, so that a channel's score means the same in both.
    """

    def __init__(self, spec: ModelSpec, layer: int, scores: LayerScores, align: int) -> None:
        own = spec.layers[layer]
        self._own = own
        self._align = align
        self._neuron_weights = 3 * spec.hidden_size
        self._attention = _attention_choices(spec, layer, scores.heads.numpy())
        neurons = scores.neurons.numpy()
        self._neuron_order = np.argsort(-neurons, kind="stable")
        self._kept_neurons = np.concatenate([[0.0], np.cumsum(neurons[self._neuron_order])])
        self.total_weights = spec.prunable_weights(layer)

    def best(self, budget: float) -> Kept:
        """The plan with the highest kept score for about `budget` weights, and the weights it keeps."""
        if budget >= self.total_weights:
            return self._plan(self._attention[-1], self._own.intermediate_size), self.total_weights
        fitting = [choice for choice in self._attention if choice.weights <= budget] or self._attention[:1]
        return self._filled(self._preferred(fitting, budget), budget)

    def nearest(self, budget: float) -> Kept:
        """The plan whose weights are nearest to the budget, whatever its score."""
        return min(
            (self._filled(choice, budget) for choice in self._attention), key=lambda kept: abs(kept[1] - budget)
        )

    def _filled(self, choice: _Attention, budget: float) -> Kept:
        count = self._neurons_within(budget - choice.weights)
        return self._plan(choice, count), choice.weights + count * self._neuron_weights

    def _preferred(self, fitting: list[_Attention], budget: float) -> _Attention:
        """The attention that, with the neurons its weights leave room for, keeps the highest score."""
        counts = [self._neurons_within(budget - choice.weights) for choice in fitting]
        kept = [choice.kept + self._kept_neurons[count] for choice, count in zip(fitting, counts, strict=True)]
        return fitting[int(np.argmax(kept))]

    def _neurons_within(self, budget: float) -> int:
        """The multiple of `align` nearest to the budget, at least one multiple, at most all neurons."""
        count = round(budget / self._neuron_weights / self._align) * self._align
        return min(max(count, self._align), self._own.intermediate_size)

    def _plan(self, choice: _Attention, count: int) -> LayerPlan:
        return LayerPlan(
            num_heads_per_group=self._own.heads_per_group,
            kv_groups=choice.kv_groups,
            heads=choice.heads,
            neurons=tuple(sorted(int(neuron) for neuron in self._neuron_order[:count])),
        )


def least_weights(spec: ModelSpec, layer: int, align: int) -> int:
    """Prunable weights of the smallest form of a layer: one query head, its KV head, `align` neurons."""
    neurons = min(align, spec.layers[layer].intermediate_size)
    return spec.hidden_size * (4 * spec.head_dim + 3 * neurons)


def _attention_choices(spec: ModelSpec, layer: int, scores: np.ndarray) -> list[_Attention]:
    """The best set of heads for every (groups, heads a group), smallest first; the last one keeps all."""
    own = spec.layers[layer]
    by_group = scores.reshape(own.num_key_value_heads, own.heads_per_group)
    order = np.argsort(-by_group, axis=1, kind="stable")
    choices = []
    for heads in range(1, own.heads_per_group + 1):
        worth = np.take_along_axis(by_group, order[:, :heads], axis=1).sum(1)
        group_order = np.argsort(-worth, kind="stable")
        for groups in range(1, own.num_key_value_heads + 1):
            kept = sorted(int(group) for group in group_order[:groups])
            kept_heads = sorted(
                int(group * own.heads_per_group + head) for group in kept for head in order[group, :heads]
            )
            weights = 2 * spec.hidden_size * spec.head_dim * (groups * heads + groups)
            channels = float(worth[kept].sum()) * spec.head_dim  # a head's score is the mean of its channels'
            choices.append(_Attention(tuple(kept), tuple(kept_heads), weights, channels))
    return choices
