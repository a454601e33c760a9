"""Files of tensors that survive the end of the process at any point: each is there as a whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save

#: The folder inside an unfinished result that holds what is needed to go on with it.
UNFINISHED = "unfinished"
#: What a file is called until it is whole.
PART = ".part"


def path_of(folder: Path, name: str, layer: int) -> Path:
    """The file that holds `name` as it is before a layer."""
    return folder / f"{name}-{layer:05}"


def kept_layers(folder: Path, name: str) -> list[int]:
    """The layers that `name` is kept for, in ascending order."""
    numbers = (path.name.removeprefix(f"{name}-") for path in folder.glob(f"{name}-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def keep_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a small file of tensors from any device."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    part = path.with_name(path.name + PART)
    part.write_bytes(save(on_cpu))  # `save_file` would make it unreadable for others
    os.replace(part, path)


def kept_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What `keep_tensors` wrote, on the CPU."""
    return load(path.read_bytes())
