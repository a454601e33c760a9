"""Model folders whose matrices are on a grid, as those of rounded models are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from seap_export.rounding.grid import BlockQuantization, best_scales, on_grid, padded_blocks, short_scales

__all__ = ["matrix_on_grid", "put_on_grid"]


def matrix_on_grid(matrix: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The nearest levels, with scales that all float types hold; float32."""
    blocks = padded_blocks(matrix.float(), how)
    scales, points = best_scales(blocks, how)
    return on_grid(blocks, short_scales(scales), points, how.bits).flatten(1)[:, : matrix.shape[1]].contiguous()


def put_on_grid(folder: Path, how: BlockQuantization) -> dict[str, torch.Tensor]:
    """Changes the float32 weights of a model folder.

    Returns:
        The matrices that are on the grid now.
    """
    path = folder / "model.safetensors"
    found = load_file(path)
    rounded = {}
    for name, tensor in found.items():
        is_table = "embed" in name or "lm_head" in name
        if tensor.dim() == 2 and how.takes(tensor.shape[1]) and (how.embeddings or not is_table):
            rounded[name] = matrix_on_grid(tensor, how)
    save_file(found | rounded, path, {"format": "pt"})
    return rounded
