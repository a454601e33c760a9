"""A micro model and what was shrunk from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from seap_export.activations.mixture import Mixture
from seap_export.plan.plan import Plan
from seap_export.sources.source import Source

#: Longer than the windows, and padded on the left in the second row.
INPUT_IDS = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(5))
ATTENTION_MASK = torch.ones_like(INPUT_IDS)
ATTENTION_MASK[1, :7] = 0


@dataclass
class Shrunk:
    """A dense micro model, the plan, and the folder written from them."""

    dense: Path
    source: Source
    plan: Plan
    statistics: Mixture
    folder: Path

    @property
    def family(self) -> str:
        return self.source.spec.family.model_type

    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text("utf-8"))

    def stored(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of all real tokens, [tokens, vocabulary]."""
    return model(INPUT_IDS, attention_mask=ATTENTION_MASK).logits[ATTENTION_MASK.bool()]
