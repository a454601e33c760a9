"""Micro models written for OpenVINO, and what torch computes with the weights that were written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from micro import VARIATIONS, write_micro_model
from safetensors.torch import load_file, save_file
from written import PRUNED

from converters.openvino import OpenvinoFormat
from seap_export.families import Family, ModelSpec, family_of_model_type, model_spec
from seap_export.families.config_reader import PROJECTION_PATHS
from seap_export.sources.config import read_json
from validation.runners.torch_runner import Run, open_torch_runner

__all__ = ["PARTS", "IrModel", "torch_logits", "write_ir_model", "write_source"]

#: A prompt, a second call, and steps, one of which passes the 16 tokens at which the micro phi3 switches its tables.
PARTS = np.split(np.random.default_rng(0).integers(3, 96, 20), [6, *range(10, 20)])


@dataclass(frozen=True)
class IrModel:
    """A model folder, and what the format has made of it."""

    format: OpenvinoFormat
    source: Path
    folder: Path
    layers: tuple[int, ...]

    @property
    def spec(self) -> ModelSpec:
        return model_spec(read_json(self.source / "config.json"))

    def read_back(self) -> Path:
        """A copy of the model folder with the weights that the IR holds."""
        copy = self.source.with_name("read_back")
        shutil.copytree(self.source, copy)
        own = load_file(copy / "model.safetensors")
        read = self.format.weights(self.folder, self.spec).read(own)
        assert {name: tensor.shape for name, tensor in read.items()} == {name: own[name].shape for name in own}
        save_file({name: tensor.contiguous() for name, tensor in read.items()}, copy / "model.safetensors")
        return copy


def write_source(folder: Path, variation: str, *, pruned: bool = False, **values: Any) -> Path:
    """A micro model of a variation; pruned: each layer has a shape of its own, and biases from compensation."""
    config = {**VARIATIONS[variation], **values}
    if pruned:
        family = family_of_model_type(config["model_type"])
        paths = {key: family.names[name] for name, key in PROJECTION_PATHS.items()}
        layers = {
            layer: {_key(family, name): value for name, value in own.items()}
            for layer, own in PRUNED["per_layer_config"].items()
        }
        config |= {**paths, "per_layer_config": layers, "model_type": f"seap_{config['model_type']}"}
    return write_micro_model(folder, **config)


def _key(family: Family, name: str) -> str:
    """What the family calls a size; the names of biases are our own."""
    return name if name.endswith("_bias") else family.key(name)


def write_ir_model(folder: Path, variation: str, precision: str, *, pruned: bool = False, **values: Any) -> IrModel:
    """Writes a micro model to `folder`/hf and `folder`/openvino."""
    source, target = write_source(folder / "hf", variation, pruned=pruned, **values), folder / "openvino"
    target.mkdir(parents=True)
    layers: list[int] = []
    made = OpenvinoFormat(precision)
    made.write(source, target, layers.append)
    return IrModel(made, source, target, tuple(layers))


def torch_logits(source: Path) -> list[np.ndarray]:
    """Of each of `PARTS`, [tokens, vocabulary]."""
    with open_torch_runner(source, 1) as runner:
        (logits,) = runner.run([Run([part.tolist() for part in PARTS], 20)])
    return np.split(logits, np.cumsum([len(part) for part in PARTS])[:-1])
