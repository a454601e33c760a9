"""Writes the shrunk model as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from seap_export.activations.mixture import Mixture
from seap_export.errors import InputError
from seap_export.families import ModelSpec, names
from seap_export.plan.plan import Plan
from seap_export.shrink.config import shrunk_config
from seap_export.shrink.sequential import sequential_layers
from seap_export.shrink.single import single_layers
from seap_export.sources.source import Source
from seap_export.sources.stored import StoredForm
from seap_export.sources.tensor_writer import SafetensorsWriter

__all__ = ["MODELING_FILES", "write_shrunk_model", "write_weights"]

#: The code shipped with a model whose layers differ in shape, for environments without this package.
MODELING_FILES = ("configuration_seap.py", "modeling_seap.py")


def write_shrunk_model(
    source: Source,
    plan: Plan,
    statistics: Mixture,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    max_batch_tokens: int = 1024,
) -> None:
    """Writes safetensors, config, generation config and tokenizer into the existing `folder`.

    In the per-layer layout, writes the modelling code too. One layer of the dense model is in memory at a time.

    Raises:
        InputError: The plan or the statistics were made from another model, or a weight is not finite.
    """
    for what, digest in (("plan", plan.source_sha256), ("calibration", statistics.source_sha256)):
        if digest != source.digest:
            raise InputError(f"the {what} was not made from the model '{source.name}'; make it again")
    if dict(plan.weights) != statistics.weights:
        raise InputError(
            f"the plan was made from the statistics of {_listed(plan.weights)}, not of {_listed(statistics.weights)}; "
            "give those, with the same weights"
        )
    spec = plan.shrunk_spec(source.spec)
    config = shrunk_config(source, spec, plan.layout)
    _write_json(config, folder / "config.json")
    if source.generation_config is not None:
        _write_json(dict(source.generation_config), folder / "generation_config.json")
    source.write_tokenizer(folder)
    for name in MODELING_FILES if plan.layout == "per-layer" else ():
        with resources.as_file(resources.files("seap_export.modeling") / name) as file:
            shutil.copyfile(file, folder / name)
    if plan.compensation == "sequential":
        layers = sequential_layers(source, plan, statistics, max_batch_tokens)
    else:
        layers = single_layers(source, plan, statistics)
    write_weights(source, spec, layers, folder, on_layer)


def write_weights(
    source: Source,
    spec: ModelSpec,
    layers: Iterable[Mapping[str, torch.Tensor]],
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> None:
    """Writes model.safetensors in the family's stored form.

    Args:
        source: Gives the tensors outside the layers, and the dtype.
        spec: The model to write.
        layers: The tensors of each of its layers, in the plain form.
        folder: Where to.
        on_layer: Called with a layer's index once it is written.
    """
    form = StoredForm(spec)
    with SafetensorsWriter(folder / "model.safetensors", form.shapes, source.reader.dtype) as writer:
        for name in spec.outer_names:
            for stored, tensor in form.to_stored({names.tensor(name): source.read_outer(name)}).items():
                writer.write(stored, tensor)
        for index, plain in enumerate(layers):
            tensors = form.to_stored(plain)
            for stored in form.holders(spec.layer_tensors(index)):
                writer.write(stored, tensors[stored])
            on_layer(index)


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{task}:{weight:g}" for task, weight in weights.items())


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8", newline="\n")
