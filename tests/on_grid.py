"""Model folders whose matrices are on a grid, as those of rounded models are."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from seap_export.rounding.grid import BlockQuantization, best_scales, on_grid, padded_blocks, short_scales
from seap_export.rounding.note import RoundingNote
from seap_export.rounding.write import write_other_files

__all__ = ["matrix_on_grid", "put_on_grid", "rounded_copy"]


def matrix_on_grid(matrix: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The nearest levels, with scales that all float types hold; float32."""
    blocks = padded_blocks(matrix.float(), how)
    scales, points = best_scales(blocks, how)
    return on_grid(blocks, short_scales(scales), points, how.bits).flatten(1)[:, : matrix.shape[1]].contiguous()


def put_on_grid(folder: Path, how: BlockQuantization) -> dict[str, torch.Tensor]:
    """Changes the weights of a model folder, which are float32 then.

    Returns:
        The matrices that are on the grid now.
    """
    path = folder / "model.safetensors"
    found = {name: tensor.float() for name, tensor in load_file(path).items()}
    rounded = {}
    for name, tensor in found.items():
        is_table = "embed" in name or "lm_head" in name
        if tensor.dim() == 2 and how.takes(tensor.shape[1]) and (how.embeddings or not is_table):
            rounded[name] = matrix_on_grid(tensor, how)
    save_file(found | rounded, path, {"format": "pt"})
    return rounded


def rounded_copy(model_folder: Path, folder: Path, how: BlockQuantization) -> RoundingNote:
    """Makes a folder as that of a rounded model, with the nearest levels."""
    shutil.copytree(model_folder, folder)
    put_on_grid(folder, how)
    note = RoundingNote.of(model_folder, folder, how)
    write_other_files(model_folder, folder, note)
    return note
