"""How gated delta nets are planned: the value heads, and the key heads that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from seap_export.model.families import DeltaNet
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.sublayers.grouped import GroupedOptions, KeptGrouped
from seap_export.pruning.plan.sublayers.kept import spread


@dataclass(frozen=True)
class KeptDeltaNet(KeptGrouped):
    """The kept value heads and key heads."""

    kind, name = DeltaNet, "linear attention"
    unit, panel = "heads", ("heads of linear attention by key head", "value head")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "linear_num_value_heads": ("value heads", "value heads of linear attention"),
        "linear_num_key_heads": ("key heads", "key heads of linear attention"),
    }

    def rows(self, dense: DeltaNet, name: Projection | str) -> torch.Tensor:
        """Queries and keys follow the key heads, all else the value heads; the norm's gain is that of every head."""
        match name:
            case "delta_qkv_proj" | "delta_kernel":
                queries = spread(self.groups, dense.key_head_dim)
                return torch.cat([queries, queries + dense.keys, self.channels(dense) + 2 * dense.keys])
            case "delta_z_proj":
                return self.channels(dense)
            case "delta_norm":
                return torch.arange(dense.value_head_dim)
            case _:
                return torch.tensor(self.units)


class DeltaNetOptions(GroupedOptions[DeltaNet]):
    """Sets of value heads that a gated delta net can keep, with as many for each key head."""

    kept_type = KeptDeltaNet

    @classmethod
    def beyond_weights(cls, sublayer: DeltaNet, cost: CostModel) -> int:
        """Multiply-adds of the convolution and of three products with the state, or the size of both states."""
        state = sublayer.channels * sublayer.key_head_dim
        each = {
            "weights": 0,
            "macs": 3 * state + sublayer.convolved * sublayer.kernel_size,
            "bytes": state + sublayer.convolved * (sublayer.kernel_size - 1),
        }
        return each[cost.budget]
