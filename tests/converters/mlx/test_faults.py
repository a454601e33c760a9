"""What is no difference, and what other computations change; `tests/planted/formats` plants the faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from converters.mlx import MlxFormat

Tensors = dict[str, torch.Tensor]
Copied = Callable[[str], Path]


def test_rounding_of_another_machine_is_none(qwen3: Path, copied: Copied) -> None:
    folder = copied("4bit")

    exact = load_file(qwen3 / "model.safetensors")["model.norm.weight"]

    def cut_off(tensors: Tensors) -> None:
        """Towards 0 instead of to the nearest."""
        nearest = exact.half()
        lower = (nearest.view(torch.int16) - 1).view(torch.float16)
        tensors["model.norm.weight"] = torch.where(nearest.float().abs() > exact.abs(), lower, nearest)

    change(folder, cut_off)
    assert not torch.equal(load_file(folder / "model.safetensors")["model.norm.weight"], exact.half())
    assert list(MlxFormat("4bit").differences(qwen3, folder)) == []


def change(folder: Path, fault: Callable[[Tensors], object]) -> None:
    """Changes the stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    fault(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
