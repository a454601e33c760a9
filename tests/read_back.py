"""A model folder with the weights that a format has written, for torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from seap_export.families import model_spec
from seap_export.sources.config import read_json


def with_written_weights(model_folder: Path, folder: Path, form: Any, target: Path) -> Path:
    """A copy of `model_folder` whose weights are those that `form` wrote into `folder`."""
    shutil.copytree(model_folder, target)
    with safe_open(target / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    weights = form.weights(folder, model_spec(read_json(model_folder / "config.json")))
    save_file({name: weights.read([name])[name].contiguous() for name in names}, target / "model.safetensors")
    return target
