"""Writes a model whose weights lie on no grid: uniform noise of half a step of Q4_1 either way, block by block.

    python blur.py MODEL_FOLDER OUT_FOLDER

A model that was read from a file of 4 bits flatters formats whose levels are near those of the file. Here a step is a
15th of what a block of 32 weights spans; of the embedding and the LM head, which such a file has in 8 bits, a 255th.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_BLOCK, _WEIGHTS = 32, "model.safetensors"


def blurred(weight: np.ndarray, levels: int, generator: np.random.Generator) -> np.ndarray:
    """A matrix, float32 [rows, columns], with noise of at most half a step, as a block with so many levels has it."""
    blocks = weight.reshape(len(weight), -1, _BLOCK)
    step = np.ptp(blocks, axis=-1, keepdims=True) / (levels - 1)
    return (blocks + step * generator.uniform(-0.5, 0.5, blocks.shape)).astype(np.float32).reshape(weight.shape)


def _main(folder: Path, out: Path) -> None:
    tensors, generator = load_file(folder / _WEIGHTS), np.random.default_rng(0)
    for name, weight in sorted(tensors.items()):
        if weight.ndim == 2:
            tensors[name] = blurred(weight, 256 if "embed" in name or "lm_head" in name else 16, generator)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(_WEIGHTS, "SHA256SUMS"))
    save_file(tensors, out / _WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
