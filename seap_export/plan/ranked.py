"""What every layer may keep, on disk: one file for each layer, so that an interrupted ranking goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from seap_export.errors import ArtifactError
from seap_export.families import Attention, ModelSpec
from seap_export.layers.kept import keep_tensors, kept_tensors
from seap_export.plan.cost import layer_shape
from seap_export.plan.options import AttentionOption, LayerOptions, options_from_scores
from seap_export.scores import LayerScores

__all__ = [
    "Ranking",
    "is_finished",
    "layer_file",
    "read_ranking",
    "read_tensors",
    "write_options",
    "write_scores",
    "write_sensitivity",
]

_SENSITIVITY = "sensitivity"


@dataclass(frozen=True)
class Ranking:
    """What every layer may keep and the resulting losses, for plans of any ratio.

    Attributes:
        options: One for each layer.
        scores: Scores of each layer; None where the options come from elimination.
        sensitivity: Sensitivity after each sublayer of each layer, float64 [layers, sublayers].
    """

    options: tuple[LayerOptions, ...]
    scores: tuple[LayerScores, ...] | None
    sensitivity: torch.Tensor

    def weighted(self, multipliers: npt.NDArray[np.float64]) -> Ranking:
        """The same with other sensitivities: times these multipliers, [num_hidden_layers, 2]."""
        return replace(self, sensitivity=self.sensitivity * torch.from_numpy(multipliers))


def read_ranking(spec: ModelSpec, folder: Path) -> Ranking:
    """The ranking in a finished folder; raises `ArtifactError` if a file is missing or damaged.

    Args:
        spec: The dense model.
        folder: What `rank` wrote.
    """
    layers = range(len(spec.layers))
    sensitivity = read_tensors(folder / f"{_SENSITIVITY}.safetensors")[_SENSITIVITY]
    stored = [read_tensors(layer_file(folder, layer)) for layer in layers]
    if "neurons" in stored[0]:
        scores = tuple(LayerScores(tensors["head_channels"], tensors["neurons"]) for tensors in stored)
        return Ranking(tuple(options_from_scores(spec, layer, scores[layer]) for layer in layers), scores, sensitivity)
    return Ranking(tuple(_options(spec, layer, stored[layer]) for layer in layers), None, sensitivity)


def is_finished(folder: Path) -> bool:
    """Whether the ranking in a folder is complete: the sensitivity is written last."""
    return (folder / f"{_SENSITIVITY}.safetensors").exists()


def layer_file(folder: Path, layer: int) -> Path:
    """The file of one layer."""
    return folder / f"layer-{layer:05}.safetensors"


def write_options(folder: Path, layer: int, options: LayerOptions) -> None:
    """Writes the options that a layer has by elimination."""
    heads = [list(option.heads) for option in options.attention]
    tensors = {
        "heads": torch.tensor([head for kept_heads in heads for head in kept_heads]),
        "heads_kept": torch.tensor([len(kept_heads) for kept_heads in heads]),
        "attention_loss": torch.tensor([option.loss for option in options.attention], dtype=torch.float64),
        "neuron_order": torch.from_numpy(options.neuron_order.copy()),
        "neuron_loss": torch.from_numpy(options.neuron_loss.copy()),
    }
    keep_tensors(layer_file(folder, layer), tensors)


def write_scores(folder: Path, layer: int, scores: LayerScores) -> None:
    """Writes the scores that a layer's options are made from."""
    keep_tensors(
        layer_file(folder, layer),
        {"head_channels": scores.head_channels, "neurons": scores.neurons},
    )


def write_sensitivity(folder: Path, sensitivity: torch.Tensor) -> None:
    """Writes the sensitivity, float64 [num_hidden_layers, 2], which finishes the folder."""
    keep_tensors(folder / f"{_SENSITIVITY}.safetensors", {_SENSITIVITY: sensitivity})


def _options(spec: ModelSpec, layer: int, tensors: Mapping[str, torch.Tensor]) -> LayerOptions:
    shape, size = layer_shape(spec, layer), spec.layers[layer][Attention].heads_per_group
    sets = [tuple(kept.tolist()) for kept in tensors["heads"].split(tensors["heads_kept"].tolist())]
    groups = [tuple(sorted({head // size for head in heads})) for heads in sets]
    attention = tuple(
        AttentionOption(kept, heads, shape.attention_weights(len(heads), len(kept)), loss)
        for kept, heads, loss in zip(groups, sets, tensors["attention_loss"].tolist(), strict=True)
    )
    return LayerOptions(shape, attention, tensors["neuron_order"].numpy(), tensors["neuron_loss"].numpy())


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What `keep_tensors` wrote; raises `ArtifactError`."""
    try:
        return kept_tensors(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: damaged or missing ({error}); remove its folder and rank again") from error
