"""The ways to shrink one layer and the error that each leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seap_export.families import ModelSpec
from seap_export.plan.cost import LayerShape, layer_shape
from seap_export.plan.plan import LayerPlan
from seap_export.scores import LayerScores

__all__ = ["AttentionOption", "LayerOptions", "attention_options", "options_from_scores"]


@dataclass(frozen=True)
class AttentionOption:
    """A way to keep attention: some KV groups, and in each the same number of query heads.

    Attributes:
        kv_groups: Kept KV groups, sorted.
        heads: Kept query heads, sorted.
        weights: Prunable weights of what is kept.
        loss: Squared error at the layer's output after the others are removed, mean over tokens.
    """

    kv_groups: tuple[int, ...]
    heads: tuple[int, ...]
    weights: int
    loss: float

    def __post_init__(self) -> None:
        if not self.kv_groups or len(self.heads) % len(self.kv_groups) or not self.heads:
            raise ValueError("every kept KV group must keep the same number of query heads, at least one")
        if self.weights < 1 or not 0.0 <= self.loss < np.inf:
            raise ValueError("weights must be positive, and loss finite and not negative")


@dataclass(frozen=True, eq=False)
class LayerOptions:
    """All ways to shrink one layer; attention and neurons are chosen independently of each other.

    A loss is the squared error of the residual stream, mean over tokens, so that attention and MLP are comparable.

    Attributes:
        shape: The dense layer's sizes.
        attention: One option for every (groups, heads per group), smallest first; the last keeps all, without loss.
        neuron_order: All neurons, most important first, int64 [intermediate_size].
        neuron_loss: Loss when the n most important neurons are kept, float64 [intermediate_size + 1]; never
            rises with n, and ends in 0.
    """

    shape: LayerShape
    attention: tuple[AttentionOption, ...]
    neuron_order: npt.NDArray[np.int64]
    neuron_loss: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        layer, neurons = self.shape.attention, self.shape.mlp.intermediate_size
        last = self.attention[-1] if self.attention else None
        if last is None or len(last.heads) != layer.num_attention_heads or last.loss != 0.0:
            raise ValueError("the last attention option must keep all heads, without loss")
        if any(a.weights > b.weights for a, b in zip(self.attention, self.attention[1:], strict=False)):
            raise ValueError("attention options must be sorted by weights")
        if not np.array_equal(np.sort(self.neuron_order), np.arange(neurons)):
            raise ValueError("neuron_order must be an order of all neurons")
        if self.neuron_loss.shape != (neurons + 1,) or self.neuron_loss[-1] != 0.0:
            raise ValueError("neuron_loss must have one value for every number of neurons, 0 for all of them")
        if not np.isfinite(self.neuron_loss).all() or (np.diff(self.neuron_loss) > 0.0).any():
            raise ValueError("neuron_loss must be finite and never rise with the number of neurons")

    def plan(self, attention: AttentionOption, neurons: int) -> LayerPlan:
        """What the layer keeps with one of the attention options and this many of the most important neurons."""
        return LayerPlan(
            num_heads_per_group=self.shape.attention.heads_per_group,
            kv_groups=attention.kv_groups,
            heads=attention.heads,
            neurons=tuple(np.sort(self.neuron_order[:neurons]).tolist()),
        )


def options_from_scores(spec: ModelSpec, layer: int, scores: LayerScores) -> LayerOptions:
    """The options of a layer whose channels are scored independently: a loss is the sum of the scores removed.

    A KV group is worth the scores of the query heads it would keep, so that for each pair (groups, heads per
    group) there is one best set. All sublayers write into the same residual stream, so that a channel's
    score means the same in each; a head's is the mean of its channels', so it counts head_dim times.
    """
    shape = layer_shape(spec, layer)
    neurons = scores.neurons.numpy()
    order = np.argsort(-neurons, kind="stable")
    removed = np.cumsum(neurons[order][::-1])[::-1]
    return LayerOptions(
        shape=shape,
        attention=attention_options(shape, scores.heads.numpy() * shape.attention.head_dim),
        neuron_order=order,
        neuron_loss=np.concatenate([removed, [0.0]]),
    )


def attention_options(shape: LayerShape, worth: npt.NDArray[np.float64]) -> tuple[AttentionOption, ...]:
    """The best set of heads for every (groups, heads per group), given each head's worth; the first of equal ones.

    Args:
        shape: The dense layer's sizes.
        worth: Loss when a head is removed, float64 [num_attention_heads]; losses of several heads add up.
    """
    layer = shape.attention
    by_group = worth.reshape(layer.num_key_value_heads, layer.heads_per_group)
    order = np.argsort(-by_group, axis=1, kind="stable")
    options = []
    for heads in range(1, layer.heads_per_group + 1):
        kept_worth = np.take_along_axis(by_group, order[:, :heads], axis=1).sum(1)
        group_order = np.argsort(-kept_worth, kind="stable")
        for groups in range(1, layer.num_key_value_heads + 1):
            group_set = np.sort(group_order[:groups])
            kept_heads = np.sort((group_set[:, None] * layer.heads_per_group + order[group_set, :heads]).ravel())
            options.append(
                AttentionOption(
                    kv_groups=tuple(group_set.tolist()),
                    heads=tuple(kept_heads.tolist()),
                    weights=shape.attention_weights(groups * heads, groups),
                    loss=float(np.delete(worth, kept_heads).sum()),
                )
            )
    return tuple(sorted(options, key=lambda option: option.weights))
