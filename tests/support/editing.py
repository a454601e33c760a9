"""Changing the files of models and artifacts in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["edit_json", "edit_weights", "set_json"]


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Rewrites a JSON file after `change` has had its object."""
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def set_json(path: Path, /, **values: Any) -> None:
    """Rewrites a JSON file with these values."""
    edit_json(path, lambda content: content.update(values))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrites the safetensors file of a model folder after `change` has had its tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
