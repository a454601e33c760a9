"""Micro models from which folders for transformers.js are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micro import VARIATIONS, write_micro_model
from written import PRUNED

from seap_export.families import family_of_model_type, names

__all__ = ["write_source"]


def write_source(folder: Path, variation: str, *, pruned: bool, **values: Any) -> Path:
    """A micro model of a variation; pruned: each layer has a shape of its own, and biases from compensation."""
    config = {**VARIATIONS[variation], **values}
    if pruned:
        config |= {**_pruned(config["model_type"]), "model_type": f"seap_{config['model_type']}"}
    return write_micro_model(folder, **config)


def _pruned(model_type: str) -> dict[str, Any]:
    """`PRUNED` by the family's own keys."""
    family = family_of_model_type(model_type)
    width, down = family.key("intermediate_size"), family.stored("down_proj", 0)
    layers = {
        index: {width if key == "intermediate_size" else key: value for key, value in layer.items()}
        for index, layer in PRUNED["per_layer_config"].items()
    }
    paths = {} if down == names.tensor("down_proj", 0) else {"down_proj_path": family.names["down_proj"]}
    return {"per_layer_config": layers, **paths}
