"""How Mamba-2 is planned: the heads, and the groups that share what is written to their states and read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from seap_export.model.families import Mamba
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.sublayers.grouped import GroupedOptions, KeptGrouped
from seap_export.pruning.plan.sublayers.kept import spread


@dataclass(frozen=True)
class KeptMamba(KeptGrouped):
    """The kept heads and groups."""

    kind, name = Mamba, "Mamba-2"
    unit, panel = "heads", ("heads of Mamba-2 by group", "head")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "mamba_n_heads": ("Mamba heads", "heads of Mamba-2"),
        "mamba_n_groups": ("Mamba groups", "groups of Mamba-2"),
    }

    def rows(self, dense: Mamba, name: Projection | str) -> torch.Tensor:
        """B and C follow the groups, all else the heads; kernels are those of values, B and C."""
        groups = spread(self.groups, dense.state_size)
        match name:
            case "mamba_b_proj" | "mamba_c_proj":
                return groups
            case "mamba_kernel" | "mamba_kernel_bias":
                first = dense.channels
                return torch.cat([self.channels(dense), groups + first, groups + first + dense.keys])
            case "mamba_z_proj" | "mamba_x_proj" | "mamba_norm":
                return self.channels(dense)
            case _:
                return torch.tensor(self.units)


class MambaOptions(GroupedOptions[Mamba]):
    """Sets of heads that Mamba-2 can keep, with as many in each group."""

    kept_type = KeptMamba

    @classmethod
    def beyond_weights(cls, sublayer: Mamba, cost: CostModel) -> int:
        """Multiply-adds of the convolution and of two products with the state, or the size of both states."""
        state = sublayer.channels * sublayer.state_size
        each = {
            "weights": 0,
            "macs": 2 * state + sublayer.convolved * sublayer.kernel_size,
            "bytes": state + sublayer.convolved * (sublayer.kernel_size - 1),
        }
        return each[cost.budget]
