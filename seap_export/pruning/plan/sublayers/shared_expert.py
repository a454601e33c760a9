"""How shared experts are planned: any number of neurons can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from seap_export.model.families import ModelSpec, SharedExpert
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels


@dataclass(frozen=True)
class KeptShared(KeptChannels):
    """The kept neurons of a shared expert, sorted."""

    kind, name = SharedExpert, "shared expert"
    unit, panel = "neurons", ("neurons of shared experts", "neuron")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "shared_expert_intermediate_size": ("shared neurons", "neurons of the shared expert")
    }

    def rows(self, dense: SharedExpert, name: Projection | str) -> torch.Tensor:
        """The kept neurons; the gate that scales the whole expert has a single row."""
        return torch.tensor([0]) if name == "shared_gate" else self.channels(dense)


class SharedOptions(ChannelOptions[SharedExpert]):
    """Numbers of neurons that a shared expert can keep."""

    kept_type = KeptShared

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: SharedExpert) -> bool:
        """False for fewer neurons where the class derives their number from the other experts."""
        rules, dense = spec.family.experts, spec.first(SharedExpert)
        is_free = rules is None or not rules.shared_number
        return is_free or shrunk.shared_expert_intermediate_size == dense.shared_expert_intermediate_size
