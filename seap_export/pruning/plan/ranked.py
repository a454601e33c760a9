"""Rankings on disk: one file for each layer, so that an interrupted ranking goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from seap_export.errors import ArtifactError
from seap_export.model.families import LayerSpec, ModelSpec
from seap_export.model.layers.kept import keep_tensors, kept_tensors
from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.sublayers import LayerOptions, options_type
from seap_export.pruning.scores import LayerScores

_SENSITIVITY = "sensitivity"


@dataclass(frozen=True)
class Ranking:
    """The ways to shrink every layer and the resulting losses, for plans of any ratio.

    Attributes:
        scores: Scores of each layer; None where the options come from elimination.
        sensitivity: Sensitivity after each sublayer of each layer, float64 [layers, sublayers].
    """

    options: tuple[LayerOptions, ...]
    scores: tuple[LayerScores, ...] | None
    sensitivity: torch.Tensor

    def weighted(self, multipliers: npt.NDArray[np.float64]) -> Ranking:
        """The ranking with its sensitivities multiplied, [layers, 2]: those of first sublayers and those of others."""
        columns = np.minimum(np.arange(self.sensitivity.shape[1]), 1)
        return replace(self, sensitivity=self.sensitivity * torch.from_numpy(multipliers[:, columns]))


def read_ranking(spec: ModelSpec, folder: Path) -> Ranking:
    """The ranking in a finished folder; raises `ArtifactError` if a file is missing or damaged."""
    layers = range(len(spec.layers))
    sensitivity = read_tensors(folder / f"{_SENSITIVITY}.safetensors")[_SENSITIVITY]
    stored = [read_tensors(layer_file(folder, layer)) for layer in layers]
    scores = tuple(_scores(layer, tensors) for layer, tensors in zip(spec.layers, stored, strict=True))
    if any(scores):
        return Ranking(tuple(options_from_scores(spec, layer, scores[layer]) for layer in layers), scores, sensitivity)
    options = tuple(
        tuple(
            options_type(sublayer).whole(sublayer, spec.hidden_size)
            if sublayer.whole_because
            else options_type(sublayer).from_tensors(sublayer, spec.hidden_size, _of_output(sublayer.output, tensors))
            for sublayer in layer.sublayers
        )
        for layer, tensors in zip(spec.layers, stored, strict=True)
    )
    return Ranking(options, None, sensitivity)


def _scores(layer: LayerSpec, tensors: Mapping[str, torch.Tensor]) -> LayerScores:
    """The scores of each sublayer of a layer; none where the ranking comes from elimination."""
    return {output: tensors[output] for output in layer.outputs if output in tensors}


def _of_output(output: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the options of one sublayer, by their own names."""
    start = f"{output}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def is_finished(folder: Path, layers: int) -> bool:
    """Whether the ranking of that many layers is complete; the sensitivity is written last."""
    files = (folder / f"{_SENSITIVITY}.safetensors", *(layer_file(folder, layer) for layer in range(layers)))
    return all(file.exists() for file in files)


def layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:05}.safetensors"


def write_options(folder: Path, layer: int, options: LayerOptions) -> None:
    tensors = {f"{one.dense.output}.{name}": tensor for one in options for name, tensor in one.tensors().items()}
    keep_tensors(layer_file(folder, layer), tensors)


def write_scores(folder: Path, layer: int, scores: LayerScores) -> None:
    """Writes the scores that a layer's options are made from; a sublayer without any stays whole."""
    keep_tensors(layer_file(folder, layer), {str(output): vector for output, vector in scores.items()})


def finish_ranking(folder: Path, sensitivity: torch.Tensor) -> None:
    """Writes the sensitivity, float64 [layers, sublayers], which finishes the folder."""
    keep_tensors(folder / f"{_SENSITIVITY}.safetensors", {_SENSITIVITY: sensitivity})


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a file that `keep_tensors` wrote; raises `ArtifactError` if it is damaged or missing."""
    try:
        return kept_tensors(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: damaged or missing ({error}); remove its folder and rank again") from error
