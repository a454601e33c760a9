"""Micro models that are shrunk, and the dense models that compute the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from seap_export.model.families import names
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.settings import Compensation
from seap_export.pruning.shrink.layer import kept_channels
from seap_export.pruning.shrink.write import write_shrunk_model
from support.calibration import single_mixture
from support.models import decoder_layers, plain_tensors, projection_paths, transformers_model


@dataclass
class Shrunk:
    """A dense micro model, the plan, and the folder written from them."""

    dense: Path
    source: Source
    plan: Plan
    statistics: TaskMixture
    folder: Path

    @property
    def family(self) -> str:
        return self.source.spec.family.model_type

    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text("utf-8"))

    def stored(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    def masked_dense_model(self) -> PreTrainedModel:
        """The dense model with hooks that multiply what the plan removes by 0, and with the compensation.

        A bias, where there is a place for it, is the mean contribution of what is removed; refitted weights are those
        stored.
        """
        model, stored = transformers_model(self.dense), plain_tensors(self.folder)
        compensation = self.plan.settings.compensation
        for index, (layer, plan) in enumerate(zip(decoder_layers(model), self.plan.layers, strict=True)):
            for output in self.source.spec.layers[index].outputs:
                linear: Any = layer.get_submodule(projection_paths(model)[output])
                kept = kept_channels(plan, self.source.spec.layers[index], output)
                mask = torch.zeros(linear.in_features)
                mask[kept] = 1.0
                linear.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,))
                bias = stored.get(names.bias(output, index))
                if compensation == "bias" and bias is not None:
                    mean = self.statistics.layer(index)[output].mean
                    moved = (linear.weight.detach().double() @ (mean * (1.0 - mask.double()))).float()
                    linear.register_forward_hook(lambda _, args, product, moved=moved: product + moved)
                elif compensation in ("one-shot", "sequential"):
                    linear.weight.data[:, kept] = stored[names.weight(output, index)]
                    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        return model


def shrink_folder(
    model: Path,
    out: Path,
    calibrated: Callable[[Source], Calibration],
    compensation: Compensation,
    plan: Callable[[Source, Compensation], Plan],
) -> Shrunk:
    source = open_source(str(model))
    made, statistics = plan(source, compensation), single_mixture(calibrated(source))
    out.mkdir()
    write_shrunk_model(source, made, statistics, out)
    return Shrunk(model, source, made, statistics, out)
