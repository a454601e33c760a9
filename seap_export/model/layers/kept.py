"""Files of tensors that survive the end of the process at any point: each is there as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save

from seap_export.common.durable import keep

#: The folder inside an unfinished result that holds what is needed to go on with it.
UNFINISHED = "unfinished"
#: The suffix of a file's name until the file is whole.
PART = ".part"


def path_of(folder: Path, name: str, layer: int) -> Path:
    """The file that holds `name` as it is before a layer."""
    return folder / f"{name}-{layer:05}"


def kept_layers(folder: Path, name: str) -> list[int]:
    """The layers that `name` is kept for, in ascending order."""
    numbers = (path.name.removeprefix(f"{name}-") for path in folder.glob(f"{name}-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def keep_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a small file of tensors from any device, to be relied on by a later run."""
    part = path.with_name(path.name + PART)
    write_tensors(part, tensors)
    keep(part, path)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a small file of tensors from any device, which only this run reads."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(on_cpu))  # `save_file` would make it unreadable for others


def kept_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a file that `keep_tensors` or `write_tensors` wrote, to the CPU."""
    return load(path.read_bytes())
