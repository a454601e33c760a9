"""How attention is planned: the query heads, and the KV groups that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from seap_export.model.families import Attention, ModelSpec
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.sublayers.grouped import GroupedOptions, KeptGrouped
from seap_export.pruning.plan.sublayers.kept import spread

#: Query heads in a KV group, and channels of a head, for which GroupQueryAttention (onnxruntime-gpu 1.31) decodes with
#: its kernel XQA, on GPUs of compute capability 8.0 or later and without a soft cap; others take flash attention.
XQA_HEADS = frozenset({1, 2, 4, 5, 8, 16, 32})
_HEAD_DIMS = frozenset({64, 128, 256})


@dataclass(frozen=True)
class KeptHeads(KeptGrouped):
    """The kept query heads and KV groups."""

    kind, name = Attention, "attention"
    unit, panel = "heads", ("heads by KV group", "query head")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "num_attention_heads": ("heads", "attention heads"),
        "num_key_value_heads": ("KV heads", "key-value heads"),
    }

    def rows(self, dense: Attention, name: Projection | str) -> torch.Tensor:
        """Queries, gates and sinks follow the heads, keys and values the groups."""
        if name == "sinks" or (name == "g_proj" and dense.gate == "heads"):
            return torch.tensor(self.units)
        return spread(self.groups if name in ("k_proj", "v_proj") else self.units, dense.head_dim)


class HeadOptions(GroupedOptions[Attention]):
    """Sets of query heads, with as many in each KV group."""

    kept_type = KeptHeads

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: Attention) -> bool:
        """False for numbers of heads that do not divide the hidden size, or are not the dense model's, if that is
        needed.
        """
        heads = shrunk.num_attention_heads
        if keeps_heads(spec) and heads != spec.first(Attention).num_attention_heads:
            return False
        return not spec.family.heads_divide_hidden_size or spec.hidden_size % heads == 0

    @classmethod
    def beyond_weights(cls, sublayer: Attention, cost: CostModel) -> int:
        """Multiply-adds of scores and values at all positions, or the size of keys and values, within the window."""
        cached = sublayer.num_key_value_heads if sublayer.states else 0
        heads = {"weights": 0, "macs": sublayer.num_attention_heads, "bytes": cached}
        positions = min(cost.context, sublayer.sliding_window or cost.context)
        return 2 * heads[cost.budget] * sublayer.head_dim * positions

    def preferring(self, tolerance: float) -> HeadOptions:
        """Raises the losses of options that cut groups to a number of heads that XQA does not take.

        So the plan with the least sum of these losses has at most 1 + `tolerance` times the least sum of the true
        ones. Groups that keep all their heads are left as they are, and so is everything where XQA takes no heads.
        """
        if tolerance == 0.0 or self.dense.head_dim not in _HEAD_DIMS or not self.dense.is_usual_softmax:
            return self
        each = [len(kept.units) // len(kept.groups) for kept in self.sets]
        slow = [heads not in XQA_HEADS and heads != self.dense.heads_per_group for heads in each]
        return replace(self, loss_of=np.where(slow, (1.0 + tolerance) * self.loss_of, self.loss_of))


def keeps_heads(spec: ModelSpec) -> bool:
    """Whether transformers loads uniform layers of this model only with all heads."""
    when = spec.family.uniform_keeps_heads
    return when == "always" or (
        when == "longrope" and any(one.rope is not None and one.rope.rope_type == when for one in spec.all(Attention))
    )
